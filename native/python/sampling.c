/* sampling: the sampler's settings between Python and C, all made from the list in localllm.h: what
 * they are called and may be, and a dict of them as an ll_sampling.
 */
#include <stdlib.h>
#include <string.h>

#include "python/module.h"

/* ---- what there is --------------------------------------------------------------------------- */

static PyObject *make_float(double value) { return PyFloat_FromDouble(value); }
static PyObject *make_int32_t(long long value) { return PyLong_FromLongLong(value); }
static PyObject *make_uint32_t(long long value) { return PyLong_FromLongLong(value); }
static PyObject *make_uint64_t(unsigned long long value) {
    return PyLong_FromUnsignedLongLong(value);
}

PyObject *module_sampling(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyObject *rows = PyList_New(0), *row;
#define X(type, name, low, high, off)                                                              \
    row = rows == NULL ? NULL                                                                      \
                       : Py_BuildValue("(sNNN)", #name, make_##type(low), make_##type(high),       \
                                       make_##type(off));                                          \
    if (row == NULL || PyList_Append(rows, row) != 0) Py_CLEAR(rows);                              \
    Py_XDECREF(row);
    LL_SAMPLING(X)
#undef X
    return rows;
}

/* ---- what is given --------------------------------------------------------------------------- */

/* False with an exception where the value is not of the setting's type. */
typedef bool setting_read(PyObject *value, void *out);

static bool read_float(PyObject *value, void *out) {
    *(float *)out = (float)PyFloat_AsDouble(value);
    return PyErr_Occurred() == NULL;
}

static bool read_whole(PyObject *value, long long low, long long high, long long *out) {
    *out = PyLong_AsLongLong(value);
    if (PyErr_Occurred() != NULL) return false;
    if (*out >= low && *out <= high) return true;
    PyErr_SetString(PyExc_OverflowError, "a setting is out of its type's range");
    return false;
}

static bool read_int32_t(PyObject *value, void *out) {
    long long whole;
    if (!read_whole(value, INT32_MIN, INT32_MAX, &whole)) return false;
    *(int32_t *)out = (int32_t)whole;
    return true;
}

static bool read_uint32_t(PyObject *value, void *out) {
    long long whole;
    if (!read_whole(value, 0, UINT32_MAX, &whole)) return false;
    *(uint32_t *)out = (uint32_t)whole;
    return true;
}

static bool read_uint64_t(PyObject *value, void *out) {
    *(uint64_t *)out = PyLong_AsUnsignedLongLong(value);
    return PyErr_Occurred() == NULL;
}

static const struct {
    const char *name;
    setting_read *read;
    size_t offset;
} settings[] = {
#define X(type, name, low, high, off) {#name, read_##type, offsetof(ll_sampling, name)},
    LL_SAMPLING(X)
#undef X
};

static bool read_biases(PyObject *sequence, ll_sampling *out) {
    Py_ssize_t n = PySequence_Size(sequence);
    if (n <= 0) return n == 0;
    ll_logit_bias *biases = malloc((size_t)n * sizeof *biases);
    if (biases == NULL) return PyErr_NoMemory() != NULL;
    out->biases = biases;
    out->n_biases = (size_t)n;
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

static bool read_setting(PyObject *key, PyObject *value, ll_sampling *out) {
    const char *name = PyUnicode_AsUTF8AndSize(key, NULL);
    if (name == NULL) return false;
    if (strcmp(name, "biases") == 0) return read_biases(value, out);
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++)
        if (strcmp(name, settings[i].name) == 0)
            return settings[i].read(value, (char *)out + settings[i].offset);
    PyErr_Format(PyExc_TypeError, "the sampler has no setting %R", key);
    return false;
}

bool sampling_read(PyObject *given, ll_sampling *out) {
    *out = (ll_sampling){
#define X(type, name, low, high, off) .name = (type)(off),
        LL_SAMPLING(X)
#undef X
    };
    PyObject *key, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(given, &at, &key, &value))
        if (!read_setting(key, value, out)) return false;
    return true;
}

void sampling_free(ll_sampling *s) { free((void *)(uintptr_t)s->biases); }
