/* localllm_measure.h: what there is and what it takes: the keys and tensors of a file, the memory
 * of an engine before it is opened, the work and the time of its steps, the importance of its
 * weights' inputs, and the limits of this machine.
 */
#ifndef LOCALLLM_MEASURE_H
#define LOCALLLM_MEASURE_H

#include "localllm.h"

/* ---- the file ------------------------------------------------------------------------------ */

/* One metadata entry of the file, or one tensor. Strings are borrowed from the mapping and are NOT
 * NUL-terminated. */
typedef struct ll_string {
    const char *data;
    size_t n_bytes;
} ll_string;

typedef enum ll_value_type { /* GGUF's own numbering */
                             LL_VALUE_U8,
                             LL_VALUE_I8,
                             LL_VALUE_U16,
                             LL_VALUE_I16,
                             LL_VALUE_U32,
                             LL_VALUE_I32,
                             LL_VALUE_F32,
                             LL_VALUE_BOOL,
                             LL_VALUE_STRING,
                             LL_VALUE_ARRAY,
                             LL_VALUE_U64,
                             LL_VALUE_I64,
                             LL_VALUE_F64
} ll_value_type;

typedef struct ll_meta {
    ll_string key;
    ll_value_type type;         /* of the value; LL_VALUE_ARRAY has element_type and n_elements */
    ll_value_type element_type; /* of the elements when type is LL_VALUE_ARRAY */
    uint64_t n_elements;        /* 1 unless an array */
    const uint8_t *data;        /* unaligned little-endian value; a string's u64 length first */
    size_t n_bytes;             /* bytes of data inside the file */
} ll_meta;

typedef struct ll_tensor_info {
    ll_string name;
    const char *quant; /* "Q4_K", … */
    uint32_t n_dims;
    uint64_t shape[4]; /* GGUF order: shape[0] is the row length */
    uint64_t n_bytes;
    uint64_t offset; /* in its file */
    uint32_t file;   /* of the model's files; from 0 */
} ll_tensor_info;

uint64_t ll_model_n_meta(const ll_model *m);
void ll_model_get_meta(const ll_model *m, uint64_t i, ll_meta *out);
uint64_t ll_model_n_tensors(const ll_model *m);
void ll_model_get_tensor(const ll_model *m, uint64_t i, ll_tensor_info *out);

/* The stored formats of weights. */
typedef struct ll_quant_info {
    const char *name;
    uint32_t ggml_id, block_dim, block_bytes;
} ll_quant_info;

/* False where i is none of them. */
bool ll_quant_get_info(uint32_t i, ll_quant_info *out);

/* ---- memory -------------------------------------------------------------------------------- */

/* What an engine will use, before anything is allocated. The allocator reads the same numbers. */
typedef struct ll_memory {
    uint64_t weight_bytes; /* file-backed, shared, evictable */
    uint64_t kv_bytes;     /* reserved; touched only as positions are used */
    uint64_t block_bytes;  /* of kv_bytes: one block of all layers, see ll_session_get_block */
    uint64_t scratch_touched_bytes; /* of scratch_bytes, at most, by steps of n_batch rows */
    uint64_t scratch_bytes;         /* activations and per-thread panels */
    uint64_t logits_bytes;
    uint64_t tables_bytes;     /* plan, block tables, the scratch of draws */
    uint64_t tokenizer_bytes;  /* there since the model was opened */
    uint64_t importance_bytes; /* beside the others, once importance is asked for */
    uint64_t device_bytes; /* in the memory of a device that has its own; in none of the above */
    uint32_t n_ctx;        /* the context these numbers are for */
    uint32_t n_threads;
} ll_memory;

bool ll_engine_plan(const ll_model *m, const ll_engine_options *options, ll_memory *out,
                    ll_error *err);
/* What an engine has touched so far of its KV, scratch and logits; the rest of `out` is 0. */
void ll_engine_measure(const ll_engine *e, ll_memory *out);

/* ---- work and profile ---------------------------------------------------------------------- */

/* What must be read and computed, whatever the device and its schedule. */
typedef struct ll_work {
    uint64_t weight_bytes; /* each weight counts once a step, however many rows share it */
    uint64_t kv_bytes;     /* keys and values read */
    uint64_t int8_macs;    /* multiply-adds with weights that take int8 activations */
    uint64_t float_macs;   /* those with float weights, and those of attention */
} ll_work;

/* Consecutive rows of one session, the last n_logits of which keep their logits. */
typedef struct ll_span {
    uint32_t first_position, n_rows, n_logits;
} ll_span;

/* The work of one step of these rows, which need not be there; ARGUMENT outside the context. */
bool ll_engine_get_work(const ll_engine *e, const ll_span *spans, size_t n_spans, ll_work *out,
                        ll_error *err);

/* One phase of the forward pass: what is done between two meetings of all threads. */
typedef struct ll_phase_time {
    const char *step, *phase; /* "qkv", "multiply" */
    uint32_t layer;           /* the model's n_layers where it belongs to none */
    double seconds;
    ll_work work; /* zero in phases that only prepare or join */
} ll_phase_time;

/* From here on adds up the time and the work of each phase, from zero; off stops adding. Costs one
 * look at the clock per phase. Errors: MEMORY, UNSUPPORTED where the device does not measure. */
bool ll_engine_set_profile(ll_engine *e, bool on, ll_error *err);
/* The sums, in the order of the forward pass, none where it was never asked for; valid until the
 * engine is closed. */
const ll_phase_time *ll_engine_get_profile(const ll_engine *e, size_t *n_phases);

/* ---- importance ---------------------------------------------------------------------------- */

/* What one matrix was multiplied with: sums of squares, column by column. */
typedef struct ll_importance {
    char name[64];      /* of the matrix, as in the file */
    uint32_t n;         /* its columns */
    uint64_t n_rows;    /* inputs that are in the sums */
    const double *sums; /* [n]; matrices with one input share them */
} ll_importance;

/* From here on adds up the squares of every matrix's inputs, from zero; off stops adding and keeps
 * what there is. The additions go in the order of the rows of the steps, so the sums of one text
 * have the same bits whatever the threads, its cuts and the kernels. Rows that keep no logits have
 * no input in the last layer behind its attention. A step that fails leaves part of itself in the
 * sums. Errors: MEMORY, UNSUPPORTED where the device does not collect them. */
bool ll_engine_set_importance(ll_engine *e, bool on, ll_error *err);
/* The sums, in the order of the forward pass, none where it was never asked for; valid until the
 * engine is closed. */
const ll_importance *ll_engine_get_importance(const ll_engine *e, size_t *n);

/* ---- machine ------------------------------------------------------------------------------- */

typedef struct ll_machine {
    uint32_t n_cores;       /* usable: affinity and cgroup quota */
    const char *kernels[8]; /* names of the kernels this processor runs, best first; NULL ends */
} ll_machine;

void ll_machine_get(ll_machine *out);

/* Reads `n_bytes` with `n_threads` threads until `seconds` passed; returns bytes per second, 0
 * where there is no memory for it. */
double ll_machine_read_rate(size_t n_bytes, uint32_t n_threads, double seconds);

/* Multiply-adds per second of `n_threads` threads at once that do nothing else, with the
 * instructions of these kernels for floats or for int8; 0 where this processor does not have
 * them. */
double ll_machine_peak(const char *kernels, bool is_float, uint32_t n_threads, double seconds);

typedef struct ll_device_info {
    const char *name;
    uint64_t free_bytes, total_bytes; /* of its own memory; 0 where it computes in the host's */
} ll_device_info;

/* A device by the name that ll_engine_options.device has, NULL: the first. Errors: ARGUMENT where
 * there is none of that name, IO where it does not answer. */
bool ll_device_get_info(const char *name, ll_device_info *out, ll_error *err);

#endif
