/* module: what the files of localllm._native share: the module's state, the exceptions, and the
 * objects that borrow from one another.
 *
 * What an object borrows from another it keeps alive by a reference, and a close is put off until
 * the last borrower is gone, so no order of closing or collecting can leave a dangling pointer. The
 * GIL is released around whatever takes time, and its thread looks for Python signals meanwhile.
 */
#ifndef LOCALLLM_PYTHON_MODULE_H
#define LOCALLLM_PYTHON_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "localllm_measure.h"
#include "localllm_quantize.h"

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
    PyObject *model_type, *engine_type, *session_type, *quantizer_type;
} module_state;

module_state *module_state_of(PyObject *self);

/* The one place where an ll_error becomes an exception. Always returns NULL. */
PyObject *module_raise(const module_state *st, const ll_error *err);
PyObject *module_raise_argument(const module_state *st, const char *message);

typedef struct model_object {
    PyObject_HEAD ll_model *model; /* NULL once closed */
    size_t n_engines;
    bool is_closed; /* asked for; done when n_engines is 0 */
    PyObject *info;
} model_object;

/* NULL with an exception where it is closed. */
ll_model *model_get_open(PyObject *self);
/* Closes the model if that was asked for and no engine borrows from it. */
void model_release(model_object *m);

/* sampling(): the rows of LL_SAMPLING. */
PyObject *module_sampling(PyObject *self, PyObject *unused);
/* Settings from a dict of them and `biases`, pairs (id, bias); what is not there is off. False with
 * an exception where one does not exist or is of another type; to be freed in any case. */
bool sampling_read(PyObject *given, ll_sampling *out);
void sampling_free(ll_sampling *s);

/* The fields of ll_engine_options as keyword arguments: the name, and how Python's parser reads it.
 * The three below make of the list an array of names, a format, and the addresses in options `o`.
 */
#define ENGINE_OPTIONS(X)                                                                          \
    X(n_ctx, "I")                                                                                  \
    X(n_sessions, "I")                                                                             \
    X(kv_tokens, "I")                                                                              \
    X(n_batch, "I")                                                                                \
    X(n_logits, "I")                                                                               \
    X(n_threads, "I")                                                                              \
    X(device, "z")                                                                                 \
    X(kernels, "z")                                                                                \
    X(kv_k, "z")                                                                                   \
    X(kv_v, "z")
#define OPTION_NAME(name, format)   #name,
#define OPTION_FORMAT(name, format) format
#define OPTION_PLACE(name, format)  , &o.name

extern PyType_Spec model_spec, engine_spec, session_spec, quantizer_spec;

#endif
