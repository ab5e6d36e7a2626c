/* module: the engine as the Python module localllm._native (limited API, one wheel for all
 * versions): its types, the error classes made from LL_ERRORS, and what the machine can do.
 */
#include "python/module.h"

#include <stdio.h>
#include <string.h>

/* ---- errors ---------------------------------------------------------------------------------- */

PyObject *module_raise(const module_state *st, const ll_error *err) {
    if (PyErr_Occurred()) return NULL; /* a signal handler raised during the step */
    PyObject *message =
        PyUnicode_DecodeUTF8(err->message, (Py_ssize_t)strlen(err->message), "replace");
    PyObject *error =
        message == NULL ? NULL : PyObject_CallFunction(st->errors[err->code], "O", message);
    Py_XDECREF(message);
    PyObject *code = PyUnicode_FromString(ll_error_name(err->code));
    PyObject *offset = PyLong_FromUnsignedLongLong(err->offset);
    PyObject *number = PyLong_FromLong(err->system);
    if (error != NULL && code != NULL && offset != NULL && number != NULL &&
        PyObject_SetAttrString(error, "code", code) == 0 &&
        PyObject_SetAttrString(error, "offset", offset) == 0 &&
        PyObject_SetAttrString(error, "errno", number) == 0)
        PyErr_SetObject(st->errors[err->code], error);
    Py_XDECREF(error);
    Py_XDECREF(code);
    Py_XDECREF(offset);
    Py_XDECREF(number);
    return NULL;
}

PyObject *module_raise_argument(const module_state *st, const char *message) {
    ll_error err = {.code = LL_ERR_ARGUMENT};
    (void)snprintf(err.message, sizeof err.message, "%s", message);
    return module_raise(st, &err);
}

module_state *module_state_of(PyObject *self) { return PyType_GetModuleState(Py_TYPE(self)); }

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

static PyObject *device_info(PyObject *self, PyObject *args) {
    const char *name = NULL;
    ll_device_info info;
    ll_error err = {0};
    if (!PyArg_ParseTuple(args, "|z", &name)) return NULL;
    if (!ll_device_get_info(name, &info, &err)) return module_raise(PyModule_GetState(self), &err);
    return Py_BuildValue("{sssKsK}", "name", info.name, "free_bytes",
                         (unsigned long long)info.free_bytes, "total_bytes",
                         (unsigned long long)info.total_bytes);
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
    Py_BEGIN_ALLOW_THREADS rate = ll_machine_peak(kernels, is_float != 0, n_threads, seconds);
    Py_END_ALLOW_THREADS return PyFloat_FromDouble(rate);
}

static PyObject *quants(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyObject *dict = PyDict_New();
    ll_quant_info q;
    for (uint32_t i = 0; dict != NULL && ll_quant_get_info(i, &q); i++) {
        PyObject *row = Py_BuildValue("(III)", q.ggml_id, q.block_dim, q.block_bytes);
        if (row == NULL || PyDict_SetItemString(dict, q.name, row) != 0) Py_CLEAR(dict);
        Py_XDECREF(row);
    }
    return dict;
}

static PyObject *end_texts(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyObject *list = PyList_New(0);
    const char *text;
    for (size_t i = 0; list != NULL && (text = ll_end_text(i)) != NULL; i++) {
        PyObject *item = PyUnicode_FromString(text);
        if (item == NULL || PyList_Append(list, item) != 0) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *kv_format(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return Py_BuildValue("(ii)", LL_ARITHMETIC, LL_BLOCK_TOKENS);
}

static PyMethodDef module_methods[] = {
    {"kv_format", kv_format, METH_NOARGS,
     "The arithmetic's version, and the tokens of a KV block."},
    {"end_texts", end_texts, METH_NOARGS, "Texts of tokens that end an answer in any model."},
    {"quants", quants, METH_NOARGS, "The formats of weights: ggml's id, block's values, bytes."},
    {"sampling", module_sampling, METH_NOARGS, "The sampler's settings: name, ends, off."},
    {"machine", machine, METH_NOARGS, "Usable cores and available kernels."},
    {"device_info", device_info, METH_VARARGS,
     "A device's name and what memory of its own it has."},
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
        add_type(module, &session_spec, "Session", &st->session_type) != 0 ||
        add_type(module, &quantizer_spec, "Quantizer", &st->quantizer_type) != 0)
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
