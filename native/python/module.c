/* module: the engine as the Python module localllm._native (limited API, one wheel for all
 * versions).
 *
 * Four kinds of objects: Model, Engine, Session and the error classes made from LL_ERRORS. What an
 * object borrows from another it keeps alive by a reference, and a close is put off until the last
 * borrower is gone, so no order of closing or collecting can leave a dangling pointer. The GIL is
 * released around open and step; while a step runs its thread looks for Python signals.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "localllm.h"

/* Python's slots hold functions as void pointers, which ISO C alone would not allow. */
#define SLOT(function) (__extension__(void *)(function))

enum {
    N_ERRORS = 0
#define X(name, text) +1
    LL_ERRORS(X)
#undef X
};

typedef struct module_state {
    PyObject *error;                /* the base class */
    PyObject *errors[N_ERRORS + 1]; /* by ll_error_code */
    PyObject *model_type, *engine_type, *session_type;
} module_state;

/* ---- errors ---------------------------------------------------------------------------------- */

/* The one place where an ll_error becomes an exception. Always returns NULL. */
static PyObject *raise(const module_state *st, const ll_error *err) {
    if (PyErr_Occurred()) return NULL; /* a signal handler raised during the step */
    PyObject *message =
        PyUnicode_DecodeUTF8(err->message, (Py_ssize_t)strlen(err->message), "replace");
    PyObject *error =
        message == NULL ? NULL : PyObject_CallFunction(st->errors[err->code], "O", message);
    Py_XDECREF(message);
    PyObject *code = PyUnicode_FromString(ll_error_name(err->code));
    PyObject *offset = PyLong_FromUnsignedLongLong(err->offset);
    if (error != NULL && code != NULL && offset != NULL &&
        PyObject_SetAttrString(error, "code", code) == 0 &&
        PyObject_SetAttrString(error, "offset", offset) == 0)
        PyErr_SetObject(st->errors[err->code], error);
    Py_XDECREF(error);
    Py_XDECREF(code);
    Py_XDECREF(offset);
    return NULL;
}

static PyObject *raise_argument(const module_state *st, const char *message) {
    ll_error err = {.code = LL_ERR_ARGUMENT};
    (void)snprintf(err.message, sizeof err.message, "%s", message);
    return raise(st, &err);
}

static module_state *state_of(PyObject *self) { return PyType_GetModuleState(Py_TYPE(self)); }

/* ---- Model ----------------------------------------------------------------------------------- */

typedef struct model_object {
    PyObject_HEAD ll_model *model; /* NULL once closed */
    size_t n_engines;
    bool is_closed; /* asked for; done when n_engines is 0 */
    PyObject *info;
} model_object;

static ll_model *open_model(PyObject *self) {
    model_object *m = (model_object *)self;
    if (m->model != NULL && !m->is_closed) return m->model;
    return (ll_model *)raise_argument(state_of(self), "the model is closed");
}

static void release_model(model_object *m) {
    if (!m->is_closed || m->n_engines > 0 || m->model == NULL) return;
    ll_model_close(m->model);
    m->model = NULL;
}

static PyObject *make_info(const ll_model *m) {
    const ll_model_info *i = ll_model_get_info(m);
    return Py_BuildValue(
        "{sssssIsIsIsIsIsIsIsIsKsKsKsKsisisO}", "arch", i->arch, "tokenizer", i->tokenizer,
        "n_layers", i->n_layers, "n_heads", i->n_heads, "n_kv_heads", i->n_kv_heads, "head_dim",
        i->head_dim, "dim", i->dim, "ffn_dim", i->ffn_dim, "n_vocab", i->n_vocab, "n_ctx_train",
        i->n_ctx_train, "n_params", (unsigned long long)i->n_params, "file_bytes",
        (unsigned long long)i->file_bytes, "weight_bytes", (unsigned long long)i->weight_bytes,
        "token_bytes", (unsigned long long)i->token_bytes, "bos", (int)ll_model_bos(m), "eos",
        (int)ll_model_eos(m), "adds_bos", ll_model_adds_bos(m) ? Py_True : Py_False);
}

static int model_init(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"path", NULL};
    model_object *m = (model_object *)self;
    PyObject *path = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&", names, PyUnicode_FSConverter, &path))
        return -1;
    if (m->model != NULL) {
        Py_DECREF(path);
        (void)raise_argument(state_of(self), "the model is open already");
        return -1;
    }
    ll_error err = {0};
    char *bytes = PyBytes_AsString(path);
    Py_BEGIN_ALLOW_THREADS m->model = bytes == NULL ? NULL : ll_model_open(bytes, &err);
    Py_END_ALLOW_THREADS Py_DECREF(path);
    if (m->model == NULL) {
        (void)raise(state_of(self), &err);
        return -1;
    }
    m->info = make_info(m->model);
    return m->info == NULL ? -1 : 0;
}

static void model_dealloc(PyObject *self) {
    model_object *m = (model_object *)self;
    PyTypeObject *type = Py_TYPE(self);
    m->is_closed = true;
    release_model(m);
    Py_XDECREF(m->info);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *model_close(PyObject *self, PyObject *unused) {
    (void)unused;
    ((model_object *)self)->is_closed = true;
    release_model((model_object *)self);
    Py_RETURN_NONE;
}

static const char *const value_names[] = {
    [LL_VALUE_U8] = "u8",       [LL_VALUE_I8] = "i8",     [LL_VALUE_U16] = "u16",
    [LL_VALUE_I16] = "i16",     [LL_VALUE_U32] = "u32",   [LL_VALUE_I32] = "i32",
    [LL_VALUE_F32] = "f32",     [LL_VALUE_BOOL] = "bool", [LL_VALUE_STRING] = "string",
    [LL_VALUE_ARRAY] = "array", [LL_VALUE_U64] = "u64",   [LL_VALUE_I64] = "i64",
    [LL_VALUE_F64] = "f64",
};

/* One value at *data, which moves on behind it. */
static PyObject *take_value(ll_value_type type, const uint8_t **data) {
    uint64_t n = 0;
    switch (type) {
#define TAKE(TYPE, C, MAKE)                                                                        \
    case LL_VALUE_##TYPE: {                                                                        \
        C v;                                                                                       \
        memcpy(&v, *data, sizeof v);                                                               \
        *data += sizeof v;                                                                         \
        return MAKE;                                                                               \
    }
        TAKE(U8, uint8_t, PyLong_FromUnsignedLong(v))
        TAKE(I8, int8_t, PyLong_FromLong(v))
        TAKE(U16, uint16_t, PyLong_FromUnsignedLong(v))
        TAKE(I16, int16_t, PyLong_FromLong(v))
        TAKE(U32, uint32_t, PyLong_FromUnsignedLong(v))
        TAKE(I32, int32_t, PyLong_FromLong(v))
        TAKE(F32, float, PyFloat_FromDouble((double)v))
        TAKE(BOOL, uint8_t, PyBool_FromLong(v))
        TAKE(U64, uint64_t, PyLong_FromUnsignedLongLong(v))
        TAKE(I64, int64_t, PyLong_FromLongLong(v))
        TAKE(F64, double, PyFloat_FromDouble(v))
#undef TAKE
    case LL_VALUE_STRING:
        memcpy(&n, *data, sizeof n);
        *data += sizeof n + n;
        return PyUnicode_DecodeUTF8((const char *)*data - n, (Py_ssize_t)n, "replace");
    case LL_VALUE_ARRAY:
        break; /* the reader refuses arrays of arrays */
    }
    Py_RETURN_NONE;
}

static PyObject *meta_value(const ll_meta *meta) {
    const uint8_t *data = meta->data;
    if (meta->type != LL_VALUE_ARRAY) return take_value(meta->type, &data);
    PyObject *list = PyList_New((Py_ssize_t)meta->n_elements);
    for (uint64_t i = 0; list != NULL && i < meta->n_elements; i++) {
        PyObject *value = take_value(meta->element_type, &data);
        if (value == NULL || PyList_SetItem(list, (Py_ssize_t)i, value) != 0) Py_CLEAR(list);
    }
    return list;
}

static PyObject *model_meta(PyObject *self, PyObject *key_object) {
    ll_model *m = open_model(self);
    Py_ssize_t n_bytes;
    const char *key = m == NULL ? NULL : PyUnicode_AsUTF8AndSize(key_object, &n_bytes);
    if (key == NULL) return NULL;
    for (uint64_t i = 0; i < ll_model_n_meta(m); i++) {
        ll_meta meta;
        ll_model_get_meta(m, i, &meta);
        if (meta.key.n_bytes == (size_t)n_bytes &&
            memcmp(meta.key.data, key, meta.key.n_bytes) == 0)
            return meta_value(&meta);
    }
    Py_RETURN_NONE;
}

static PyObject *text_of(ll_string s) {
    return PyUnicode_DecodeUTF8(s.data, (Py_ssize_t)s.n_bytes, "replace");
}

static PyObject *model_meta_keys(PyObject *self, PyObject *unused) {
    (void)unused;
    ll_model *m = open_model(self);
    PyObject *list = m == NULL ? NULL : PyList_New(0);
    for (uint64_t i = 0; list != NULL && i < ll_model_n_meta(m); i++) {
        ll_meta meta;
        ll_model_get_meta(m, i, &meta);
        PyObject *type = meta.type == LL_VALUE_ARRAY
                             ? PyUnicode_FromFormat("array[%s]", value_names[meta.element_type])
                             : PyUnicode_FromString(value_names[meta.type]);
        PyObject *row =
            Py_BuildValue("NNK", text_of(meta.key), type, (unsigned long long)meta.n_elements);
        if (row == NULL || PyList_Append(list, row) != 0) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyObject *model_tensors(PyObject *self, PyObject *unused) {
    (void)unused;
    ll_model *m = open_model(self);
    PyObject *list = m == NULL ? NULL : PyList_New(0);
    for (uint64_t i = 0; list != NULL && i < ll_model_n_tensors(m); i++) {
        ll_tensor_info t;
        ll_model_get_tensor(m, i, &t);
        PyObject *shape = PyTuple_New((Py_ssize_t)t.n_dims);
        for (uint32_t d = 0; shape != NULL && d < t.n_dims; d++)
            if (PyTuple_SetItem(shape, (Py_ssize_t)d, PyLong_FromUnsignedLongLong(t.shape[d])) != 0)
                Py_CLEAR(shape);
        PyObject *row =
            Py_BuildValue("NsNK", text_of(t.name), t.quant, shape, (unsigned long long)t.n_bytes);
        if (row == NULL || PyList_Append(list, row) != 0) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyObject *ids_to_list(const int32_t *ids, size_t n) {
    PyObject *list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list != NULL && i < n; i++)
        if (PyList_SetItem(list, (Py_ssize_t)i, PyLong_FromLong(ids[i])) != 0) Py_CLEAR(list);
    return list;
}

static PyObject *model_tokenize(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"text", "control", "add_special", NULL};
    const char *text;
    Py_ssize_t n_bytes;
    int control = 0, add_special = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y#|pp", names, &text, &n_bytes, &control,
                                     &add_special))
        return NULL;
    ll_model *m = open_model(self);
    if (m == NULL) return NULL;
    size_t capacity = (size_t)n_bytes + 8, n_ids = 0; /* no tokenizer makes more ids than bytes */
    int32_t *ids = NULL;
    PyObject *list = NULL;
    ll_error err = {0};
    for (;;) {
        int32_t *grown = realloc(ids, capacity * sizeof *ids);
        if (grown == NULL) {
            (void)PyErr_NoMemory();
            break;
        }
        ids = grown;
        if (!ll_tokenize(m, text, (size_t)n_bytes, control ? LL_PARSE_CONTROL : LL_PARSE_USER,
                         add_special != 0, ids, capacity, &n_ids, &err)) {
            (void)raise(state_of(self), &err);
            break;
        }
        if (n_ids <= capacity) {
            list = ids_to_list(ids, n_ids);
            break;
        }
        capacity = n_ids;
    }
    free(ids);
    return list;
}

static PyObject *model_token_bytes(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"id", "control", NULL};
    int id, control = 0;
    char small[128];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i|p", names, &id, &control)) return NULL;
    ll_model *m = open_model(self);
    if (m == NULL) return NULL;
    int32_t n = ll_token_bytes(m, id, control != 0, small, sizeof small);
    if (n < 0) return raise_argument(state_of(self), "the token is outside the vocabulary");
    if ((size_t)n <= sizeof small) return PyBytes_FromStringAndSize(small, n);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, n);
    if (bytes != NULL)
        (void)ll_token_bytes(m, id, control != 0, PyBytes_AsString(bytes), (size_t)n);
    return bytes;
}

static PyObject *ask_token(PyObject *self, PyObject *id, bool (*ask)(const ll_model *, int32_t)) {
    ll_model *m = open_model(self);
    if (m == NULL) return NULL;
    long value = PyLong_AsLong(id);
    if (value == -1 && PyErr_Occurred()) return NULL;
    return PyBool_FromLong(value >= 0 && value <= INT32_MAX && ask(m, (int32_t)value));
}

static PyObject *model_token_is_end(PyObject *self, PyObject *id) {
    return ask_token(self, id, ll_token_is_end);
}

static PyObject *model_token_is_control(PyObject *self, PyObject *id) {
    return ask_token(self, id, ll_token_is_control);
}

static PyObject *model_find_token(PyObject *self, PyObject *text) {
    ll_model *m = open_model(self);
    char *bytes;
    Py_ssize_t n_bytes;
    if (m == NULL || PyBytes_AsStringAndSize(text, &bytes, &n_bytes) != 0) return NULL;
    return PyLong_FromLong(ll_model_find_token(m, bytes, (size_t)n_bytes));
}

#define OPTION_NAMES "n_ctx", "n_sessions", "n_batch", "n_logits", "n_threads", "kernels", NULL

static PyObject *model_plan(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {OPTION_NAMES};
    ll_engine_options o = {.n_sessions = 1, .n_logits = 1};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$IIIIIz", names, &o.n_ctx, &o.n_sessions,
                                     &o.n_batch, &o.n_logits, &o.n_threads, &o.kernels))
        return NULL;
    ll_model *m = open_model(self);
    if (m == NULL) return NULL;
    ll_memory memory;
    ll_error err = {0};
    if (!ll_engine_plan(m, &o, &memory, &err)) return raise(state_of(self), &err);
    return Py_BuildValue("{sKsKsKsKsKsIsI}", "weight_bytes",
                         (unsigned long long)memory.weight_bytes, "kv_bytes",
                         (unsigned long long)memory.kv_bytes, "scratch_bytes",
                         (unsigned long long)memory.scratch_bytes, "logits_bytes",
                         (unsigned long long)memory.logits_bytes, "tables_bytes",
                         (unsigned long long)memory.tables_bytes, "n_ctx", memory.n_ctx,
                         "n_threads", memory.n_threads);
}

static PyObject *model_get_info(PyObject *self, void *unused) {
    (void)unused;
    PyObject *info = ((model_object *)self)->info;
    return info == NULL ? raise_argument(state_of(self), "the model is closed") : Py_NewRef(info);
}

static PyMethodDef model_methods[] = {
    {"meta", model_meta, METH_O, "The value of one metadata key, None where absent."},
    {"meta_keys", model_meta_keys, METH_NOARGS, "Every key with its type and element count."},
    {"tensors", model_tensors, METH_NOARGS, "Every tensor: name, quant, shape, bytes."},
    {"tokenize", (PyCFunction)(void (*)(void))model_tokenize, METH_VARARGS | METH_KEYWORDS,
     "The ids of a text."},
    {"token_bytes", (PyCFunction)(void (*)(void))model_token_bytes, METH_VARARGS | METH_KEYWORDS,
     "The bytes of one token."},
    {"token_is_end", model_token_is_end, METH_O, "Whether the token ends an answer."},
    {"token_is_control", model_token_is_control, METH_O, "Whether the token is a control token."},
    {"find_token", model_find_token, METH_O, "The id of a token's text, -1 where there is none."},
    {"plan", (PyCFunction)(void (*)(void))model_plan, METH_VARARGS | METH_KEYWORDS,
     "The bytes an engine would use, before anything is allocated."},
    {"close", model_close, METH_NOARGS, "Unmaps the file once no engine uses it."},
    {0}
};

static PyGetSetDef model_getset[] = {
    {"info", model_get_info, NULL, "Sizes of the model.", NULL},
    {0}
};

static PyType_Slot model_slots[] = {
    {Py_tp_init,    SLOT(model_init)                                   },
    {Py_tp_dealloc, SLOT(model_dealloc)                                },
    {Py_tp_methods, model_methods                                      },
    {Py_tp_getset,  model_getset                                       },
    {Py_tp_doc,     "A GGUF file mapped read-only, with its tokenizer."},
    {0,             NULL                                               }
};

static PyType_Spec model_spec = {.name = "localllm._native.Model",
                                 .basicsize = sizeof(model_object),
                                 .flags = Py_TPFLAGS_DEFAULT,
                                 .slots = model_slots};

/* ---- Engine ---------------------------------------------------------------------------------- */

typedef struct engine_object {
    PyObject_HEAD ll_engine *engine; /* NULL once closed */
    model_object *model;
    size_t n_borrowers;              /* sessions and exported buffers */
    bool is_closed;                  /* asked for; done when n_borrowers is 0 */
    void *sample_scratch;            /* made at the first draw */
    Py_ssize_t shape[2], strides[2]; /* of the exported logits */
    PyThreadState *running;          /* of the step in progress */
} engine_object;

typedef struct session_object {
    PyObject_HEAD ll_session *session;
    engine_object *engine;
} session_object;

static ll_engine *open_engine(PyObject *self) {
    engine_object *e = (engine_object *)self;
    if (e->engine != NULL && !e->is_closed) return e->engine;
    return (ll_engine *)raise_argument(state_of(self), "the engine is closed");
}

static void release_engine(engine_object *e) {
    if (!e->is_closed || e->n_borrowers > 0 || e->engine == NULL) return;
    ll_engine_close(e->engine);
    e->engine = NULL;
    e->model->n_engines--;
    release_model(e->model);
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
    module_state *st = state_of(self);
    PyObject *model;
    ll_engine_options o = {.n_sessions = 1, .n_logits = 1};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|$IIIIIz", names, st->model_type, &model,
                                     &o.n_ctx, &o.n_sessions, &o.n_batch, &o.n_logits, &o.n_threads,
                                     &o.kernels))
        return -1;
    ll_model *m = open_model(model);
    if (m == NULL) return -1;
    if (e->engine != NULL) {
        (void)raise_argument(st, "the engine is open already");
        return -1;
    }
    ll_error err = {0};
    ((model_object *)model)->n_engines++; /* also keeps the model open while the GIL is released */
    Py_BEGIN_ALLOW_THREADS e->engine = ll_engine_open(m, &o, &err);
    Py_END_ALLOW_THREADS if (e->engine == NULL) {
        ((model_object *)model)->n_engines--;
        release_model((model_object *)model);
        (void)raise(st, &err);
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
    free(e->sample_scratch);
    Py_XDECREF((PyObject *)e->model);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *engine_close(PyObject *self, PyObject *unused) {
    (void)unused;
    engine_object *e = (engine_object *)self;
    if (e->running != NULL) return raise_argument(state_of(self), "a step is running");
    e->is_closed = true;
    release_engine(e);
    Py_RETURN_NONE;
}

static PyObject *engine_session(PyObject *self, PyObject *unused) {
    (void)unused;
    ll_engine *engine = open_engine(self);
    if (engine == NULL) return NULL;
    module_state *st = state_of(self);
    ll_error err = {0};
    ll_session *session = ll_session_open(engine, &err);
    if (session == NULL) return raise(st, &err);
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
    module_state *st = state_of(self);
    if (!PyTuple_Check(entry)) {
        PyErr_SetString(PyExc_TypeError, "expected a tuple (session, ids, n_logits)");
        return false;
    }
    if (!PyArg_ParseTuple(entry, "O!On", st->session_type, &session, &ids, &n_logits)) return false;
    ll_session *s = ((session_object *)session)->session;
    if (s == NULL) return raise_argument(st, "the session is closed") != NULL;
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
    if (e->running != NULL) return raise_argument(state_of(self), "a step is running already");
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
    if (!ok) return raise(state_of(self), &err);
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

/* The last n entries of a sequence of ints; false with an exception set on failure. */
static bool copy_ids(PyObject *sequence, size_t most, int32_t **out, size_t *n_out) {
    Py_ssize_t n_all = PySequence_Size(sequence);
    if (n_all < 0) return false;
    size_t n = (size_t)n_all < most ? (size_t)n_all : most;
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    if (ids == NULL) return PyErr_NoMemory() != NULL;
    for (size_t i = 0; i < n; i++) {
        PyObject *item = PySequence_GetItem(sequence, n_all - (Py_ssize_t)n + (Py_ssize_t)i);
        ids[i] = item == NULL ? -1 : (int32_t)PyLong_AsLong(item);
        Py_XDECREF(item);
    }
    *out = ids;
    *n_out = n;
    return !PyErr_Occurred();
}

static bool copy_biases(PyObject *sequence, ll_logit_bias **out, size_t *n_out) {
    Py_ssize_t n = sequence == NULL ? 0 : PySequence_Size(sequence);
    if (n < 0) return false;
    ll_logit_bias *biases = malloc(((size_t)n + 1) * sizeof *biases);
    if (biases == NULL) return PyErr_NoMemory() != NULL;
    *out = biases;
    *n_out = (size_t)n;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *pair = PySequence_GetItem(sequence, i);
        bool ok = pair != NULL && PyTuple_Check(pair) &&
                  PyArg_ParseTuple(pair, "if", &biases[i].id, &biases[i].bias);
        Py_XDECREF(pair);
        if (!ok && !PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "expected pairs (id, bias)");
        if (!ok) return false;
    }
    return true;
}

static PyObject *engine_sample(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"row",
                            "recent",
                            "position",
                            "temperature",
                            "top_k",
                            "top_p",
                            "min_p",
                            "typical_p",
                            "repeat_penalty",
                            "frequency_penalty",
                            "presence_penalty",
                            "penalty_last_n",
                            "seed",
                            "biases",
                            NULL};
    engine_object *e = (engine_object *)self;
    module_state *st = state_of(self);
    Py_ssize_t row;
    PyObject *recent, *biases = NULL;
    unsigned long long position, seed = 0;
    ll_sampling s = {.top_p = 1, .typical_p = 1, .repeat_penalty = 1};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "nOK|$fiffffffIKO", names, &row, &recent,
                                     &position, &s.temperature, &s.top_k, &s.top_p, &s.min_p,
                                     &s.typical_p, &s.repeat_penalty, &s.frequency_penalty,
                                     &s.presence_penalty, &s.penalty_last_n, &seed, &biases))
        return NULL;
    ll_engine *engine = open_engine(self);
    if (engine == NULL) return NULL;
    size_t n_kept, n_recent = 0, n_vocab = (size_t)n_vocab_of(e);
    const float *logits = ll_engine_logits(engine, &n_kept);
    if (row < 0 || (size_t)row >= n_kept)
        return raise_argument(st, "no logits are kept for the row");
    if (e->sample_scratch == NULL)
        e->sample_scratch = malloc(ll_sample_scratch_bytes((uint32_t)n_vocab));
    if (e->sample_scratch == NULL) return PyErr_NoMemory();
    size_t n_peaks = (n_vocab + LL_PEAK_LOGITS - 1) / LL_PEAK_LOGITS;
    const float *peaks = ll_engine_peaks(engine) + (size_t)row * n_peaks;
    s.seed = seed;
    int32_t *ids = NULL, id = -1;
    ll_logit_bias *bias_list = NULL;
    ll_error err = {0};
    bool ok = copy_ids(recent, s.penalty_last_n, &ids, &n_recent) &&
              copy_biases(biases, &bias_list, &s.n_biases);
    s.biases = bias_list;
    if (ok && !ll_sample(&s, logits + (size_t)row * n_vocab, peaks, (uint32_t)n_vocab, ids,
                         n_recent, position, e->sample_scratch, &id, &err))
        ok = raise(st, &err) != NULL;
    free(ids);
    free(bias_list);
    return ok ? PyLong_FromLong(id) : NULL;
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
        (void)raise(state_of(self), &err);
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
        return raise(state_of(self), &err);
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

static PyObject *engine_get_kernels(PyObject *self, void *unused) {
    (void)unused;
    ll_engine *e = open_engine(self);
    return e == NULL ? NULL : PyUnicode_FromString(ll_engine_kernels(e));
}

/* The closure of a count's getter is the function that reads it. */
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
    {"sample", (PyCFunction)(void (*)(void))engine_sample, METH_VARARGS | METH_KEYWORDS,
     "Draws a token from one kept row of logits."},
    {"cancel", engine_cancel, METH_NOARGS, "Makes the running step fail, from any thread."},
    {"work", engine_work, METH_O, "What a step of such rows must read and compute."},
    {"set_profile", engine_set_profile, METH_O, "Starts adding up each phase's time, or stops."},
    {"profile", engine_profile, METH_NOARGS, "Each phase's time and work since then."},
    {"close", engine_close, METH_NOARGS, "Frees everything once no session uses it."},
    {0}
};

static PyGetSetDef engine_getset[] = {
    {"kernels", engine_get_kernels, NULL, "Name of the kernels in use.", NULL},
    {"n_threads", engine_get_count, NULL, "Threads.", &read_n_threads},
    {"n_ctx", engine_get_count, NULL, "Positions per session.", &read_n_ctx},
    {"n_batch", engine_get_count, NULL, "Rows per step.", &read_n_batch},
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

static PyType_Spec engine_spec = {.name = "localllm._native.Engine",
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
        return (ll_session *)raise_argument(state_of(self), "the session is closed");
    if (s->engine->running != NULL)
        return (ll_session *)raise_argument(state_of(self), "a step is running");
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

static PyObject *session_get_n_tokens(PyObject *self, void *unused) {
    (void)unused;
    ll_session *s = idle_session(self);
    return s == NULL ? NULL : PyLong_FromUnsignedLong(ll_session_n_tokens(s));
}

static PyMethodDef session_methods[] = {
    {"truncate", session_truncate, METH_O, "Drops tokens from the end; returns how many are left."},
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

static PyType_Spec session_spec = {.name = "localllm._native.Session",
                                   .basicsize = sizeof(session_object),
                                   .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                   .slots = session_slots};

/* ---- module ---------------------------------------------------------------------------------- */

static PyObject *machine(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    ll_machine m;
    ll_machine_get(&m);
    PyObject *kernels = PyList_New(0);
    for (size_t i = 0; kernels != NULL && m.kernels[i] != NULL; i++) {
        PyObject *name = PyUnicode_FromString(m.kernels[i]);
        if (name == NULL || PyList_Append(kernels, name) != 0) Py_CLEAR(kernels);
        Py_XDECREF(name);
    }
    return kernels == NULL ? NULL
                           : Py_BuildValue("{sIsN}", "n_cores", m.n_cores, "kernels", kernels);
}

static PyObject *read_rate(PyObject *self, PyObject *args) {
    (void)self;
    unsigned long long n_bytes;
    unsigned n_threads;
    double seconds, rate;
    if (!PyArg_ParseTuple(args, "KId", &n_bytes, &n_threads, &seconds)) return NULL;
    Py_BEGIN_ALLOW_THREADS rate = ll_machine_read_rate((size_t)n_bytes, n_threads, seconds);
    Py_END_ALLOW_THREADS return PyFloat_FromDouble(rate);
}

static PyObject *peak(PyObject *self, PyObject *args) {
    (void)self;
    const char *kernels;
    int is_float;
    unsigned n_threads;
    double seconds, rate;
    if (!PyArg_ParseTuple(args, "spId", &kernels, &is_float, &n_threads, &seconds)) return NULL;
    ll_arithmetic arithmetic = is_float ? LL_FLOAT : LL_INT8;
    Py_BEGIN_ALLOW_THREADS rate = ll_machine_peak(kernels, arithmetic, n_threads, seconds);
    Py_END_ALLOW_THREADS return PyFloat_FromDouble(rate);
}

static PyMethodDef module_methods[] = {
    {"machine", machine, METH_NOARGS, "Usable cores and available kernels."},
    {"read_rate", read_rate, METH_VARARGS, "Bytes per second read from memory."},
    {"peak", peak, METH_VARARGS, "Multiply-adds per second of threads that do nothing else."},
    {0}
};

/* "argument" -> localllm._native.ArgumentError */
static PyObject *make_error(PyObject *module, const char *code, PyObject *base) {
    char name[64];
    (void)snprintf(name, sizeof name, "localllm._native.%c%sError", code[0] - 'a' + 'A', code + 1);
    PyObject *error = PyErr_NewException(name, base, NULL);
    if (error != NULL && PyModule_AddObjectRef(module, strrchr(name, '.') + 1, error) != 0)
        Py_CLEAR(error);
    return error;
}

static int add_type(PyObject *module, PyType_Spec *spec, const char *name, PyObject **out) {
    *out = PyType_FromModuleAndSpec(module, spec, NULL);
    return *out == NULL ? -1 : PyModule_AddObjectRef(module, name, *out);
}

static int module_exec(PyObject *module) {
    module_state *st = PyModule_GetState(module);
    st->error = PyErr_NewException("localllm._native.Error", NULL, NULL);
    if (st->error == NULL || PyModule_AddObjectRef(module, "Error", st->error) != 0) return -1;
    for (int code = 1; code <= N_ERRORS; code++) {
        st->errors[code] = make_error(module, ll_error_name((ll_error_code)code), st->error);
        if (st->errors[code] == NULL) return -1;
    }
    if (add_type(module, &model_spec, "Model", &st->model_type) != 0 ||
        add_type(module, &engine_spec, "Engine", &st->engine_type) != 0 ||
        add_type(module, &session_spec, "Session", &st->session_type) != 0)
        return -1;
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, SLOT(module_exec)},
    {0,           NULL             }
};

static PyModuleDef definition = {.m_base = PyModuleDef_HEAD_INIT,
                                 .m_name = "_native",
                                 .m_doc = "The localllm engine.",
                                 .m_size = sizeof(module_state),
                                 .m_methods = module_methods,
                                 .m_slots = module_slots};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
