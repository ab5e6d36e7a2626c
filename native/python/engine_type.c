/* engine_type: localllm._native.Engine and Session: steps, their logits as a buffer, draws, work
 * and profile. While a step runs, its thread looks for Python signals.
 */
#include "python/module.h"

#include <stdlib.h>
#include <string.h>

/* ---- Engine ---------------------------------------------------------------------------------- */

typedef struct engine_object {
    PyObject_HEAD ll_engine *engine; /* NULL once closed */
    model_object *model;
    size_t n_borrowers;              /* sessions and exported buffers */
    bool is_closed;                  /* asked for; done when n_borrowers is 0 */
    Py_ssize_t shape[2], strides[2]; /* of the exported logits */
    PyThreadState *running;          /* of the step or the draws in progress */
} engine_object;

typedef struct session_object {
    PyObject_HEAD ll_session *session;
    engine_object *engine;
} session_object;

static ll_engine *open_engine(PyObject *self) {
    engine_object *e = (engine_object *)self;
    if (e->engine != NULL && !e->is_closed) return e->engine;
    return (ll_engine *)module_raise_argument(module_state_of(self), "the engine is closed");
}

static void release_engine(engine_object *e) {
    if (!e->is_closed || e->n_borrowers > 0 || e->engine == NULL) return;
    ll_engine_close(e->engine);
    e->engine = NULL;
    e->model->n_engines--;
    model_release(e->model);
}

/* Called in the stepping thread without the GIL: runs Python's signal handlers, and cancels the
 * step when one raised. */
static bool poll_signals(void *arg) {
    engine_object *e = arg;
    PyEval_RestoreThread(e->running);
    bool raised = PyErr_CheckSignals() != 0;
    e->running = PyEval_SaveThread();
    return raised;
}

static int engine_init(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"model", OPTION_NAMES};
    engine_object *e = (engine_object *)self;
    module_state *st = module_state_of(self);
    PyObject *model;
    ll_engine_options o = {.n_sessions = 1, .n_logits = 1};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|$IIIIIIzzzz", names, st->model_type, &model,
                                     &o.n_ctx, &o.n_sessions, &o.kv_tokens, &o.n_batch, &o.n_logits,
                                     &o.n_threads, &o.device, &o.kernels, &o.kv_k, &o.kv_v))
        return -1;
    ll_model *m = model_get_open(model);
    if (m == NULL) return -1;
    if (e->engine != NULL) {
        (void)module_raise_argument(st, "the engine is open already");
        return -1;
    }
    ll_error err = {0};
    ((model_object *)model)->n_engines++; /* also keeps the model open while the GIL is released */
    Py_BEGIN_ALLOW_THREADS e->engine = ll_engine_open(m, &o, &err);
    Py_END_ALLOW_THREADS if (e->engine == NULL) {
        ((model_object *)model)->n_engines--;
        model_release((model_object *)model);
        (void)module_raise(st, &err);
        return -1;
    }
    e->model = (model_object *)Py_NewRef(model);
    ll_engine_set_poll(e->engine, poll_signals, e);
    return 0;
}

static void engine_dealloc(PyObject *self) {
    engine_object *e = (engine_object *)self;
    PyTypeObject *type = Py_TYPE(self);
    e->is_closed = true;
    release_engine(e);
    Py_XDECREF((PyObject *)e->model);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *engine_close(PyObject *self, PyObject *unused) {
    (void)unused;
    engine_object *e = (engine_object *)self;
    if (e->running != NULL)
        return module_raise_argument(module_state_of(self), "a step is running");
    e->is_closed = true;
    release_engine(e);
    Py_RETURN_NONE;
}

static PyObject *engine_session(PyObject *self, PyObject *unused) {
    (void)unused;
    ll_engine *engine = open_engine(self);
    if (engine == NULL) return NULL;
    module_state *st = module_state_of(self);
    ll_error err = {0};
    ll_session *session = ll_session_open(engine, &err);
    if (session == NULL) return module_raise(st, &err);
    PyTypeObject *type = (PyTypeObject *)st->session_type;
    session_object *s = (session_object *)PyType_GenericAlloc(type, 0);
    if (s == NULL) {
        ll_session_close(session);
        return NULL;
    }
    s->session = session;
    s->engine = (engine_object *)Py_NewRef(self);
    s->engine->n_borrowers++;
    return (PyObject *)s;
}

typedef struct row_list {
    ll_row *rows;
    size_t n, capacity;
} row_list;

static bool append_row(row_list *list, ll_session *session, long id, bool logits) {
    if (list->n == list->capacity) {
        size_t capacity = list->capacity == 0 ? 64 : list->capacity * 2;
        ll_row *grown = realloc(list->rows, capacity * sizeof *grown);
        if (grown == NULL) return PyErr_NoMemory() != NULL;
        list->rows = grown;
        list->capacity = capacity;
    }
    int32_t fitting = id < 0 || id > INT32_MAX ? -1 : (int32_t)id; /* the engine refuses -1 */
    list->rows[list->n++] = (ll_row){.session = session, .id = fitting, .logits = logits};
    return true;
}

/* One (session, ids, n_logits) entry of a step. */
static bool append_entry(PyObject *self, row_list *list, PyObject *entry) {
    PyObject *session, *ids;
    Py_ssize_t n_logits;
    module_state *st = module_state_of(self);
    if (!PyTuple_Check(entry)) {
        PyErr_SetString(PyExc_TypeError, "expected a tuple (session, ids, n_logits)");
        return false;
    }
    if (!PyArg_ParseTuple(entry, "O!On", st->session_type, &session, &ids, &n_logits)) return false;
    ll_session *s = ((session_object *)session)->session;
    if (s == NULL) return module_raise_argument(st, "the session is closed") != NULL;
    Py_ssize_t n = PySequence_Size(ids);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = PySequence_GetItem(ids, i);
        long id = item == NULL ? -1 : PyLong_AsLong(item);
        Py_XDECREF(item);
        if (PyErr_Occurred() || !append_row(list, s, id, i >= n - n_logits)) return false;
    }
    return n >= 0;
}

static PyObject *engine_step(PyObject *self, PyObject *entries) {
    engine_object *e = (engine_object *)self;
    if (open_engine(self) == NULL) return NULL;
    if (e->running != NULL)
        return module_raise_argument(module_state_of(self), "a step is running already");
    row_list list = {0};
    Py_ssize_t n_entries = PySequence_Size(entries);
    bool ok = n_entries >= 0;
    for (Py_ssize_t i = 0; ok && i < n_entries; i++) {
        PyObject *entry = PySequence_GetItem(entries, i);
        ok = entry != NULL && append_entry(self, &list, entry);
        Py_XDECREF(entry);
    }
    if (!ok) {
        free(list.rows);
        return NULL;
    }
    ll_error err = {0};
    e->running = PyEval_SaveThread();
    ok = ll_engine_step(e->engine, list.rows, list.n, &err);
    PyEval_RestoreThread(e->running);
    e->running = NULL;
    free(list.rows);
    if (!ok) return module_raise(module_state_of(self), &err);
    size_t n_kept;
    (void)ll_engine_logits(e->engine, &n_kept);
    return PyLong_FromSize_t(n_kept);
}

static Py_ssize_t n_vocab_of(const engine_object *e) {
    return (Py_ssize_t)ll_model_get_info(e->model->model)->n_vocab;
}

static int engine_getbuffer(PyObject *self, Py_buffer *view, int flags) {
    engine_object *e = (engine_object *)self;
    if (open_engine(self) == NULL) return -1;
    if ((flags & PyBUF_WRITABLE) != 0) {
        PyErr_SetString(PyExc_BufferError, "logits are read-only");
        return -1;
    }
    size_t n_kept;
    const float *logits = ll_engine_logits(e->engine, &n_kept);
    e->shape[0] = (Py_ssize_t)n_kept;
    e->shape[1] = n_vocab_of(e);
    e->strides[1] = sizeof(float);
    e->strides[0] = e->shape[1] * e->strides[1];
    *view = (Py_buffer){.buf = (void *)(uintptr_t)logits,
                        .obj = Py_NewRef(self),
                        .len = e->shape[0] * e->strides[0],
                        .itemsize = sizeof(float),
                        .readonly = 1,
                        .ndim = 2,
                        .format = (flags & PyBUF_FORMAT) != 0 ? "f" : NULL,
                        .shape = (flags & PyBUF_ND) != 0 ? e->shape : NULL,
                        .strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? e->strides : NULL};
    e->n_borrowers++;
    return 0;
}

static void engine_releasebuffer(PyObject *self, Py_buffer *view) {
    (void)view;
    engine_object *e = (engine_object *)self;
    e->n_borrowers--;
    release_engine(e);
}

static PyObject *engine_logits(PyObject *self, PyObject *unused) {
    (void)unused;
    return PyMemoryView_FromObject(self);
}

/* A sequence of ints; false with an exception set on failure. */
static bool copy_ids(PyObject *sequence, int32_t **out, size_t *n_out) {
    Py_ssize_t n_all = PySequence_Size(sequence);
    if (n_all < 0) return false;
    size_t n = (size_t)n_all;
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    if (ids == NULL) return PyErr_NoMemory() != NULL;
    for (size_t i = 0; i < n; i++) {
        PyObject *item = PySequence_GetItem(sequence, (Py_ssize_t)i);
        ids[i] = item == NULL ? -1 : (int32_t)PyLong_AsLong(item);
        Py_XDECREF(item);
    }
    *out = ids;
    *n_out = n;
    return !PyErr_Occurred();
}

typedef struct draw_list {
    ll_draw *draws;
    ll_sampling *settings;
    int32_t *ids;
    size_t n;
} draw_list;

static void free_draws(draw_list *list) {
    for (size_t i = 0; i < list->n; i++) sampling_free(&list->settings[i]);
    PyMem_Free(list->draws);
    PyMem_Free(list->settings);
    PyMem_Free(list->ids);
}

/* One (session, row, settings) entry of a draw. */
static bool append_draw(PyObject *self, draw_list *list, PyObject *entry) {
    module_state *st = module_state_of(self);
    PyObject *session, *given;
    Py_ssize_t row;
    if (!PyTuple_Check(entry)) {
        PyErr_SetString(PyExc_TypeError, "expected a tuple (session, row, settings)");
        return false;
    }
    if (!PyArg_ParseTuple(entry, "O!nO!", st->session_type, &session, &row, &PyDict_Type, &given))
        return false;
    const ll_session *s = ((session_object *)session)->session;
    if (s == NULL) return module_raise_argument(st, "the session is closed") != NULL;
    uint32_t fitting = row < 0 || row > UINT32_MAX ? UINT32_MAX : (uint32_t)row;
    ll_sampling *sampling = &list->settings[list->n];
    list->draws[list->n++] = (ll_draw){.row = fitting, .session = s, .sampling = sampling};
    return sampling_read(given, sampling);
}

/* False with an exception set; what there is must be freed in any case. */
static bool read_draws(PyObject *self, PyObject *entries, draw_list *list) {
    Py_ssize_t n = PySequence_Size(entries);
    if (n < 0) return false;
    list->draws = PyMem_Calloc((size_t)n, sizeof *list->draws);
    list->settings = PyMem_Calloc((size_t)n, sizeof *list->settings);
    list->ids = PyMem_Calloc((size_t)n, sizeof *list->ids);
    if (list->draws == NULL || list->settings == NULL || list->ids == NULL)
        return PyErr_NoMemory() != NULL;
    bool ok = true;
    for (Py_ssize_t i = 0; ok && i < n; i++) {
        PyObject *entry = PySequence_GetItem(entries, i);
        ok = entry != NULL && append_draw(self, list, entry);
        Py_XDECREF(entry);
    }
    return ok;
}

static PyObject *make_ids(const int32_t *ids, size_t n) {
    PyObject *list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list != NULL && i < n; i++) {
        PyObject *id = PyLong_FromLong(ids[i]);
        if (id == NULL || PyList_SetItem(list, (Py_ssize_t)i, id) != 0) Py_CLEAR(list);
    }
    return list;
}

static PyObject *engine_sample(PyObject *self, PyObject *entries) {
    engine_object *e = (engine_object *)self;
    if (open_engine(self) == NULL) return NULL;
    if (e->running != NULL)
        return module_raise_argument(module_state_of(self), "a step is running");
    draw_list list = {0};
    PyObject *drawn = NULL;
    if (read_draws(self, entries, &list)) {
        ll_error err = {0};
        e->running = PyEval_SaveThread();
        bool ok = ll_engine_sample(e->engine, list.draws, list.n, list.ids, &err);
        PyEval_RestoreThread(e->running);
        e->running = NULL;
        drawn = ok ? make_ids(list.ids, list.n) : module_raise(module_state_of(self), &err);
    }
    free_draws(&list);
    return drawn;
}

static PyObject *engine_cancel(PyObject *self, PyObject *unused) {
    (void)unused;
    ll_engine *engine = open_engine(self);
    if (engine == NULL) return NULL;
    ll_engine_cancel(engine);
    Py_RETURN_NONE;
}

static PyObject *make_work(const ll_work *w) {
    return Py_BuildValue("{sKsKsKsK}", "weight_bytes", (unsigned long long)w->weight_bytes,
                         "kv_bytes", (unsigned long long)w->kv_bytes, "int8_macs",
                         (unsigned long long)w->int8_macs, "float_macs",
                         (unsigned long long)w->float_macs);
}

static PyObject *engine_work(PyObject *self, PyObject *entries) {
    ll_engine *e = open_engine(self);
    PyObject *list = e == NULL ? NULL : PySequence_Tuple(entries);
    if (list == NULL) return NULL;
    Py_ssize_t n = PyTuple_Size(list);
    ll_span *spans = PyMem_Malloc((size_t)(n > 0 ? n : 1) * sizeof *spans);
    bool ok = spans != NULL;
    for (Py_ssize_t i = 0; ok && i < n; i++)
        ok = PyArg_ParseTuple(PyTuple_GetItem(list, i), "III", &spans[i].first_position,
                              &spans[i].n_rows, &spans[i].n_logits) != 0;
    ll_work work;
    ll_error err = {0};
    if (ok && !(ok = ll_engine_get_work(e, spans, (size_t)n, &work, &err)))
        (void)module_raise(module_state_of(self), &err);
    if (spans == NULL) (void)PyErr_NoMemory();
    PyMem_Free(spans);
    Py_DECREF(list);
    return ok ? make_work(&work) : NULL;
}

static PyObject *engine_set_profile(PyObject *self, PyObject *on) {
    ll_engine *e = open_engine(self);
    if (e == NULL) return NULL;
    ll_error err = {0};
    if (!ll_engine_set_profile(e, PyObject_IsTrue(on) == 1, &err))
        return module_raise(module_state_of(self), &err);
    Py_RETURN_NONE;
}

static PyObject *engine_profile(PyObject *self, PyObject *unused) {
    (void)unused;
    ll_engine *e = open_engine(self);
    PyObject *rows = e == NULL ? NULL : PyList_New(0);
    if (rows == NULL) return NULL;
    size_t n;
    const ll_phase_time *phases = ll_engine_get_profile(e, &n);
    for (size_t i = 0; rows != NULL && i < n; i++) {
        const ll_phase_time *p = &phases[i];
        PyObject *row =
            Py_BuildValue("(ssIdN)", p->step, p->phase, p->layer, p->seconds, make_work(&p->work));
        if (row == NULL || PyList_Append(rows, row) != 0) Py_CLEAR(rows);
        Py_XDECREF(row);
    }
    return rows;
}

static PyObject *engine_set_importance(PyObject *self, PyObject *on) {
    ll_engine *e = open_engine(self);
    if (e == NULL) return NULL;
    ll_error err = {0};
    if (!ll_engine_set_importance(e, PyObject_IsTrue(on) == 1, &err))
        return module_raise(module_state_of(self), &err);
    Py_RETURN_NONE;
}

static PyObject *engine_resident(PyObject *self, PyObject *unused) {
    (void)unused;
    ll_engine *e = open_engine(self);
    if (e == NULL) return NULL;
    ll_memory m;
    ll_engine_measure(e, &m);
    return Py_BuildValue("{sKsKsK}", "kv_bytes", (unsigned long long)m.kv_bytes, "scratch_bytes",
                         (unsigned long long)m.scratch_bytes, "logits_bytes",
                         (unsigned long long)m.logits_bytes);
}

static PyObject *engine_importance(PyObject *self, PyObject *unused) {
    (void)unused;
    ll_engine *e = open_engine(self);
    PyObject *rows = e == NULL ? NULL : PyList_New(0);
    if (rows == NULL) return NULL;
    size_t n;
    const ll_importance *all = ll_engine_get_importance(e, &n);
    for (size_t i = 0; rows != NULL && i < n; i++) {
        PyObject *row =
            Py_BuildValue("(sKy#)", all[i].name, (unsigned long long)all[i].n_rows,
                          (const char *)all[i].sums, (Py_ssize_t)(all[i].n * sizeof *all[i].sums));
        if (row == NULL || PyList_Append(rows, row) != 0) Py_CLEAR(rows);
        Py_XDECREF(row);
    }
    return rows;
}

/* The closure of a getter is the function that reads what it gets. */
typedef const char *engine_name(const ll_engine *e);
typedef struct engine_namer {
    engine_name *read;
} engine_namer;

static engine_namer read_device = {ll_engine_device};
static engine_namer read_arithmetic = {ll_engine_arithmetic};
static engine_namer read_kernels = {ll_engine_kernels};
static engine_namer read_kv_k = {ll_engine_kv_k};
static engine_namer read_kv_v = {ll_engine_kv_v};

static PyObject *engine_get_name(PyObject *self, void *namer) {
    ll_engine *e = open_engine(self);
    return e == NULL ? NULL : PyUnicode_FromString(((engine_namer *)namer)->read(e));
}

typedef uint32_t engine_count(const ll_engine *e);
typedef struct engine_counter {
    engine_count *read;
} engine_counter;

static engine_counter read_n_threads = {ll_engine_n_threads};
static engine_counter read_n_ctx = {ll_engine_n_ctx};
static engine_counter read_n_batch = {ll_engine_n_batch};

static PyObject *engine_get_count(PyObject *self, void *counter) {
    ll_engine *e = open_engine(self);
    return e == NULL ? NULL : PyLong_FromUnsignedLong(((engine_counter *)counter)->read(e));
}

static PyMethodDef engine_methods[] = {
    {"session", engine_session, METH_NOARGS, "A new, empty session."},
    {"step", engine_step, METH_O, "Feeds rows of sessions, all or nothing."},
    {"logits", engine_logits, METH_NOARGS, "The kept logits of the last step, not copied."},
    {"sample", engine_sample, METH_O, "Draws a token from each of some kept rows of logits."},
    {"cancel", engine_cancel, METH_NOARGS, "Makes the running step fail, from any thread."},
    {"work", engine_work, METH_O, "What a step of such rows must read and compute."},
    {"set_profile", engine_set_profile, METH_O, "Starts adding up each phase's time, or stops."},
    {"profile", engine_profile, METH_NOARGS, "Each phase's time and work since then."},
    {"set_importance", engine_set_importance, METH_O,
     "Starts adding up inputs' squares, or stops."},
    {"resident", engine_resident, METH_NOARGS, "What has been touched of its memory so far."},
    {"importance", engine_importance, METH_NOARGS, "Each matrix's sums of squares since then."},
    {"close", engine_close, METH_NOARGS, "Frees everything once no session uses it."},
    {0}
};

static PyObject *engine_get_block_bytes(PyObject *self, void *unused) {
    (void)unused;
    ll_engine *e = open_engine(self);
    return e == NULL ? NULL : PyLong_FromSize_t(ll_engine_block_bytes(e));
}

static PyObject *engine_get_gives_back(PyObject *self, void *unused) {
    (void)unused;
    ll_engine *e = open_engine(self);
    return e == NULL ? NULL : PyBool_FromLong(ll_engine_gives_back(e));
}

static PyGetSetDef engine_getset[] = {
    {"device", engine_get_name, NULL, "Name of the device.", &read_device},
    {"arithmetic", engine_get_name, NULL, "What bits it computes.", &read_arithmetic},
    {"kernels", engine_get_name, NULL, "Name of the kernels in use.", &read_kernels},
    {"kv_k", engine_get_name, NULL, "What keys are stored as.", &read_kv_k},
    {"kv_v", engine_get_name, NULL, "What values are stored as.", &read_kv_v},
    {"n_threads", engine_get_count, NULL, "Threads.", &read_n_threads},
    {"n_ctx", engine_get_count, NULL, "Positions per session.", &read_n_ctx},
    {"n_batch", engine_get_count, NULL, "Rows per step.", &read_n_batch},
    {"block_bytes", engine_get_block_bytes, NULL, "Bytes of a KV block.", NULL},
    {"gives_back", engine_get_gives_back, NULL, "Whether windowed layers give blocks back.", NULL},
    {0}
};

static PyType_Slot engine_slots[] = {
    {Py_tp_init,          SLOT(engine_init)                    },
    {Py_tp_dealloc,       SLOT(engine_dealloc)                 },
    {Py_tp_methods,       engine_methods                       },
    {Py_tp_getset,        engine_getset                        },
    {Py_bf_getbuffer,     SLOT(engine_getbuffer)               },
    {Py_bf_releasebuffer, SLOT(engine_releasebuffer)           },
    {Py_tp_doc,           "A model with threads and a KV pool."},
    {0,                   NULL                                 }
};

PyType_Spec engine_spec = {.name = "localllm._native.Engine",
                           .basicsize = sizeof(engine_object),
                           .flags = Py_TPFLAGS_DEFAULT,
                           .slots = engine_slots};

/* ---- Session --------------------------------------------------------------------------------- */

static void session_release(session_object *s) {
    if (s->session == NULL) return;
    ll_session_close(s->session);
    s->session = NULL;
    s->engine->n_borrowers--;
    release_engine(s->engine);
}

static void session_dealloc(PyObject *self) {
    session_object *s = (session_object *)self;
    PyTypeObject *type = Py_TYPE(self);
    session_release(s);
    Py_XDECREF((PyObject *)s->engine);
    PyObject_Free(self);
    Py_DECREF(type);
}

/* NULL with an exception where the session is closed or in a running step. */
static ll_session *idle_session(PyObject *self) {
    session_object *s = (session_object *)self;
    if (s->session == NULL)
        return (ll_session *)module_raise_argument(module_state_of(self), "the session is closed");
    if (s->engine->running != NULL)
        return (ll_session *)module_raise_argument(module_state_of(self), "a step is running");
    return s->session;
}

static PyObject *session_close(PyObject *self, PyObject *unused) {
    (void)unused;
    if (((session_object *)self)->session == NULL) Py_RETURN_NONE;
    if (idle_session(self) == NULL) return NULL;
    session_release((session_object *)self);
    Py_RETURN_NONE;
}

static PyObject *session_truncate(PyObject *self, PyObject *n_tokens) {
    ll_session *s = idle_session(self);
    if (s == NULL) return NULL;
    unsigned long n = PyLong_AsUnsignedLong(n_tokens);
    if (PyErr_Occurred()) return NULL;
    uint32_t left = n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
    return PyLong_FromUnsignedLong(ll_session_truncate(s, left));
}

static PyObject *session_reuse(PyObject *self, PyObject *sequence) {
    ll_session *s = idle_session(self);
    int32_t *ids = NULL;
    size_t n_ids = 0;
    if (s == NULL || !copy_ids(sequence, &ids, &n_ids)) return NULL;
    uint32_t n_held = ll_session_reuse(s, ids, n_ids > UINT32_MAX ? UINT32_MAX : (uint32_t)n_ids);
    free(ids);
    return PyLong_FromUnsignedLong(n_held);
}

static PyObject *session_get_block(PyObject *self, PyObject *index) {
    ll_session *s = idle_session(self);
    if (s == NULL) return NULL;
    unsigned long i = PyLong_AsUnsignedLong(index);
    if (PyErr_Occurred()) return NULL;
    uint32_t fitting = i > UINT32_MAX ? UINT32_MAX : (uint32_t)i;
    size_t n_bytes = ll_session_block_bytes(s, fitting);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)n_bytes);
    if (bytes == NULL) return NULL;
    ll_error err = {0};
    if (ll_session_get_block(s, fitting, PyBytes_AsString(bytes), &err)) return bytes;
    Py_DECREF(bytes);
    return module_raise(module_state_of(self), &err);
}

static PyObject *session_put_block(PyObject *self, PyObject *args) {
    ll_session *s = idle_session(self);
    PyObject *sequence;
    Py_buffer kv;
    if (s == NULL || !PyArg_ParseTuple(args, "Oy*", &sequence, &kv)) return NULL;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    PyObject *done = NULL;
    ll_error err = {0};
    if (copy_ids(sequence, &ids, &n_ids)) {
        if (n_ids != LL_BLOCK_TOKENS)
            (void)module_raise_argument(module_state_of(self), "a block of too many or few tokens");
        else if (ll_session_put_block(s, ids, kv.buf, (size_t)kv.len, &err))
            done = Py_NewRef(Py_None);
        else
            (void)module_raise(module_state_of(self), &err);
    }
    free(ids);
    PyBuffer_Release(&kv);
    return done;
}

static PyObject *session_get_n_tokens(PyObject *self, void *unused) {
    (void)unused;
    ll_session *s = idle_session(self);
    return s == NULL ? NULL : PyLong_FromUnsignedLong(ll_session_n_tokens(s));
}

static PyObject *session_ids(PyObject *self, PyObject *args) {
    ll_session *s = idle_session(self);
    Py_ssize_t start = 0;
    if (s == NULL || !PyArg_ParseTuple(args, "|n", &start)) return NULL;
    size_t n_tokens = ll_session_n_tokens(s), first = start > 0 ? (size_t)start : 0;
    if (first > n_tokens) first = n_tokens;
    return make_ids(ll_session_ids(s) + first, n_tokens - first);
}

static PyMethodDef session_methods[] = {
    {"ids", session_ids, METH_VARARGS, "The tokens it holds, from one of them on."},
    {"truncate", session_truncate, METH_O, "Drops tokens from the end; returns how many are left."},
    {"reuse", session_reuse, METH_O, "Holds what is known of the beginning of ids."},
    {"get_block", session_get_block, METH_O, "The KV of 64 tokens, as bytes."},
    {"put_block", session_put_block, METH_VARARGS, "Adds 64 tokens by their ids and KV."},
    {"close", session_close, METH_NOARGS, "Gives its KV blocks back."},
    {0}
};

static PyGetSetDef session_getset[] = {
    {"n_tokens", session_get_n_tokens, NULL, "Tokens fed so far.", NULL},
    {0}
};

static PyType_Slot session_slots[] = {
    {Py_tp_dealloc, SLOT(session_dealloc)                     },
    {Py_tp_methods, session_methods                           },
    {Py_tp_getset,  session_getset                            },
    {Py_tp_doc,     "One timeline of tokens inside an engine."},
    {0,             NULL                                      }
};

PyType_Spec session_spec = {.name = "localllm._native.Session",
                            .basicsize = sizeof(session_object),
                            .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                            .slots = session_slots};
