/* quantizer_type: localllm._native.Quantizer, which writes tensors of one file into another. */
#include "python/module.h"

#include <string.h>

typedef struct quantizer_object {
    PyObject_HEAD ll_quantizer *quantizer;
    PyThreadState *running; /* of the write in progress */
} quantizer_object;

static int quantizer_init(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"n_threads", NULL};
    quantizer_object *q = (quantizer_object *)self;
    unsigned n_threads = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$I", names, &n_threads)) return -1;
    if (q->quantizer != NULL) {
        (void)module_raise_argument(module_state_of(self), "the quantizer is open already");
        return -1;
    }
    ll_error err = {0};
    q->quantizer = ll_quantizer_open(n_threads, &err);
    if (q->quantizer != NULL) return 0;
    (void)module_raise(module_state_of(self), &err);
    return -1;
}

static void quantizer_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    ll_quantizer_close(((quantizer_object *)self)->quantizer);
    PyObject_Free(self);
    Py_DECREF(type);
}

static bool poll_signals(void *arg) {
    quantizer_object *q = arg;
    PyEval_RestoreThread(q->running);
    bool raised = PyErr_CheckSignals() != 0;
    q->running = PyEval_SaveThread();
    return raised;
}

/* The n_values 4-byte values of an optional buffer; `view` is to be released where its obj is set.
 */
static bool take_values(PyObject *self, PyObject *object, const char *name, uint64_t n_values,
                        Py_buffer *view) {
    if (object == Py_None) return true;
    if (PyObject_GetBuffer(object, view, PyBUF_SIMPLE) != 0) return false;
    if ((uint64_t)view->len == n_values * sizeof(float)) return true;
    char message[128];
    (void)PyOS_snprintf(message, sizeof message, "%s has %zd bytes, expected %llu", name, view->len,
                        (unsigned long long)n_values * sizeof(float));
    (void)module_raise_argument(module_state_of(self), message);
    return false;
}

static PyObject *run_write(PyObject *self, const ll_tensor_source *source,
                           const ll_tensor_target *target, bool measure) {
    quantizer_object *q = (quantizer_object *)self;
    ll_error err = {0};
    ll_loss loss = {0};
    if (q->quantizer == NULL || q->running != NULL)
        return module_raise_argument(module_state_of(self), "the quantizer is not free");
    q->running = PyEval_SaveThread();
    bool ok = ll_quantizer_write(q->quantizer, source, target, poll_signals, q,
                                 measure ? &loss : NULL, &err);
    PyEval_RestoreThread(q->running);
    q->running = NULL;
    if (!ok) return module_raise(module_state_of(self), &err);
    return Py_BuildValue("(dd)", loss.error, loss.total);
}

static PyObject *quantizer_write(PyObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"src_fd",     "src_offset", "src_type",   "n_rows",    "row_dim",
                            "quant",      "out_fd",     "out_offset", "row_order", "scales",
                            "scale_rows", "scale_cols", "importance", "measure",   NULL};
    ll_tensor_source s = {0};
    ll_tensor_target t = {0};
    unsigned long long src_offset, n_rows, row_dim, out_offset;
    PyObject *row_order = Py_None, *scales = Py_None, *importance = Py_None;
    int measure = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iKsKKsiK|$OOIIOp", names, &s.fd, &src_offset,
                                     &s.type, &n_rows, &row_dim, &t.quant, &t.fd, &out_offset,
                                     &row_order, &scales, &s.scale_rows, &s.scale_cols, &importance,
                                     &measure))
        return NULL;
    s.offset = src_offset;
    s.n_rows = n_rows;
    s.row_dim = row_dim;
    t.offset = out_offset;
    uint64_t n_scales = 0;
    if (s.scale_rows > 0 && s.scale_cols > 0)
        n_scales = (n_rows / s.scale_rows + (n_rows % s.scale_rows != 0)) *
                   (row_dim / s.scale_cols + (row_dim % s.scale_cols != 0));
    Py_buffer views[3] = {{0}};
    PyObject *result = NULL;
    if (take_values(self, row_order, "row_order", n_rows, &views[0]) &&
        take_values(self, scales, "scales", n_scales, &views[1]) &&
        take_values(self, importance, "importance", row_dim, &views[2])) {
        s.row_order = views[0].buf;
        s.scales = views[1].buf;
        t.importance = views[2].buf;
        result = run_write(self, &s, &t, measure != 0);
    }
    for (int i = 0; i < 3; i++)
        if (views[i].obj != NULL) PyBuffer_Release(&views[i]);
    return result;
}

static PyMethodDef quantizer_methods[] = {
    {"write", (PyCFunction)(void (*)(void))quantizer_write, METH_VARARGS | METH_KEYWORDS,
     "Reads, quantizes and writes one tensor; returns its error and the sum it is part of."},
    {0}
};

static PyType_Slot quantizer_slots[] = {
    {Py_tp_init,    SLOT(quantizer_init)                      },
    {Py_tp_dealloc, SLOT(quantizer_dealloc)                   },
    {Py_tp_methods, quantizer_methods                         },
    {Py_tp_doc,     "Writes tensors of one file into another."},
    {0,             NULL                                      }
};

PyType_Spec quantizer_spec = {.name = "localllm._native.Quantizer",
                              .basicsize = sizeof(quantizer_object),
                              .flags = Py_TPFLAGS_DEFAULT,
                              .slots = quantizer_slots};
