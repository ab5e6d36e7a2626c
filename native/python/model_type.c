/* model_type: localllm._native.Model, an open file: what it says of itself, and its tokenizer. */
#include "python/module.h"

#include <stdlib.h>
#include <string.h>

ll_model *model_get_open(PyObject *self) {
    model_object *m = (model_object *)self;
    if (m->model != NULL && !m->is_closed) return m->model;
    return (ll_model *)module_raise_argument(module_state_of(self), "the model is closed");
}

void model_release(model_object *m) {
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
        (void)module_raise_argument(module_state_of(self), "the model is open already");
        return -1;
    }
    ll_error err = {0};
    char *bytes = PyBytes_AsString(path);
    Py_BEGIN_ALLOW_THREADS m->model = bytes == NULL ? NULL : ll_model_open(bytes, &err);
    Py_END_ALLOW_THREADS Py_DECREF(path);
    if (m->model == NULL) {
        (void)module_raise(module_state_of(self), &err);
        return -1;
    }
    m->info = make_info(m->model);
    return m->info == NULL ? -1 : 0;
}

static void model_dealloc(PyObject *self) {
    model_object *m = (model_object *)self;
    PyTypeObject *type = Py_TYPE(self);
    m->is_closed = true;
    model_release(m);
    Py_XDECREF(m->info);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *model_close(PyObject *self, PyObject *unused) {
    (void)unused;
    ((model_object *)self)->is_closed = true;
    model_release((model_object *)self);
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
    ll_model *m = model_get_open(self);
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

/* As it lies in the file, without the key: type, element type and number for an array, value. */
static PyObject *model_meta_bytes(PyObject *self, PyObject *unused) {
    (void)unused;
    ll_model *m = model_get_open(self);
    PyObject *dict = m == NULL ? NULL : PyDict_New();
    for (uint64_t i = 0; dict != NULL && i < ll_model_n_meta(m); i++) {
        ll_meta meta;
        ll_model_get_meta(m, i, &meta);
        char head[2 * sizeof(uint32_t) + sizeof(uint64_t)];
        uint32_t type = (uint32_t)meta.type, element = (uint32_t)meta.element_type;
        size_t n_head = meta.type == LL_VALUE_ARRAY ? sizeof head : sizeof type;
        memcpy(head, &type, sizeof type);
        memcpy(head + sizeof type, &element, sizeof element);
        memcpy(head + sizeof type + sizeof element, &meta.n_elements, sizeof meta.n_elements);
        PyObject *key = text_of(meta.key);
        PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(n_head + meta.n_bytes));
        bool ok = key != NULL && bytes != NULL;
        if (ok) {
            memcpy(PyBytes_AsString(bytes), head, n_head);
            memcpy(PyBytes_AsString(bytes) + n_head, meta.data, meta.n_bytes);
            ok = PyDict_SetItem(dict, key, bytes) == 0;
        }
        Py_XDECREF(key);
        Py_XDECREF(bytes);
        if (!ok) Py_CLEAR(dict);
    }
    return dict;
}

static PyObject *model_meta_keys(PyObject *self, PyObject *unused) {
    (void)unused;
    ll_model *m = model_get_open(self);
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
    ll_model *m = model_get_open(self);
    PyObject *list = m == NULL ? NULL : PyList_New(0);
    for (uint64_t i = 0; list != NULL && i < ll_model_n_tensors(m); i++) {
        ll_tensor_info t;
        ll_model_get_tensor(m, i, &t);
        PyObject *shape = PyTuple_New((Py_ssize_t)t.n_dims);
        for (uint32_t d = 0; shape != NULL && d < t.n_dims; d++)
            if (PyTuple_SetItem(shape, (Py_ssize_t)d, PyLong_FromUnsignedLongLong(t.shape[d])) != 0)
                Py_CLEAR(shape);
        PyObject *row =
            Py_BuildValue("NsNKKI", text_of(t.name), t.quant, shape, (unsigned long long)t.n_bytes,
                          (unsigned long long)t.offset, t.file);
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
    ll_model *m = model_get_open(self);
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
            (void)module_raise(module_state_of(self), &err);
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
    ll_model *m = model_get_open(self);
    if (m == NULL) return NULL;
    int32_t n = ll_token_bytes(m, id, control != 0, small, sizeof small);
    if (n < 0)
        return module_raise_argument(module_state_of(self), "the token is outside the vocabulary");
    if ((size_t)n <= sizeof small) return PyBytes_FromStringAndSize(small, n);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, n);
    if (bytes != NULL)
        (void)ll_token_bytes(m, id, control != 0, PyBytes_AsString(bytes), (size_t)n);
    return bytes;
}

static PyObject *ask_token(PyObject *self, PyObject *id, bool (*ask)(const ll_model *, int32_t)) {
    ll_model *m = model_get_open(self);
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
    ll_model *m = model_get_open(self);
    char *bytes;
    Py_ssize_t n_bytes;
    if (m == NULL || PyBytes_AsStringAndSize(text, &bytes, &n_bytes) != 0) return NULL;
    return PyLong_FromLong(ll_model_find_token(m, bytes, (size_t)n_bytes));
}

static PyObject *model_plan(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {OPTION_NAMES};
    ll_engine_options o = {.n_sessions = 1, .n_logits = 1};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$IIIIIIzzzz", names, &o.n_ctx, &o.n_sessions,
                                     &o.kv_tokens, &o.n_batch, &o.n_logits, &o.n_threads, &o.device,
                                     &o.kernels, &o.kv_k, &o.kv_v))
        return NULL;
    ll_model *m = model_get_open(self);
    if (m == NULL) return NULL;
    ll_memory memory;
    ll_error err = {0};
    if (!ll_engine_plan(m, &o, &memory, &err)) return module_raise(module_state_of(self), &err);
    return Py_BuildValue("{sKsKsKsKsKsKsKsKsKsKsIsI}", "weight_bytes",
                         (unsigned long long)memory.weight_bytes, "kv_bytes",
                         (unsigned long long)memory.kv_bytes, "block_bytes",
                         (unsigned long long)memory.block_bytes, "scratch_touched_bytes",
                         (unsigned long long)memory.scratch_touched_bytes, "scratch_bytes",
                         (unsigned long long)memory.scratch_bytes, "logits_bytes",
                         (unsigned long long)memory.logits_bytes, "tables_bytes",
                         (unsigned long long)memory.tables_bytes, "tokenizer_bytes",
                         (unsigned long long)memory.tokenizer_bytes, "importance_bytes",
                         (unsigned long long)memory.importance_bytes, "device_bytes",
                         (unsigned long long)memory.device_bytes, "n_ctx", memory.n_ctx,
                         "n_threads", memory.n_threads);
}

static PyObject *model_get_info(PyObject *self, void *unused) {
    (void)unused;
    PyObject *info = ((model_object *)self)->info;
    return info == NULL ? module_raise_argument(module_state_of(self), "the model is closed")
                        : Py_NewRef(info);
}

static PyMethodDef model_methods[] = {
    {"meta", model_meta, METH_O, "The value of one metadata key, None where absent."},
    {"meta_keys", model_meta_keys, METH_NOARGS, "Every key with its type and element count."},
    {"meta_bytes", model_meta_bytes, METH_NOARGS, "Every key with its value as in the file."},
    {"tensors", model_tensors, METH_NOARGS,
     "Every tensor: name, quant, shape, bytes, offset, file."},
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

PyType_Spec model_spec = {.name = "localllm._native.Model",
                          .basicsize = sizeof(model_object),
                          .flags = Py_TPFLAGS_DEFAULT,
                          .slots = model_slots};
