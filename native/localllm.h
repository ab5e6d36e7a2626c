/* localllm.h: the whole C interface of the engine.
 *
 * A model is one GGUF file mapped read-only. An engine runs one model with its threads and its KV
 * pool. A session is one timeline of tokens inside an engine. One step feeds rows (tokens) of any
 * number of sessions at once and leaves the logits of the rows that asked for them.
 *
 * Every function that can fail returns false or NULL and fills the ll_error it was given. Nothing
 * prints, exits or aborts. Close functions accept NULL. An engine has one caller at a time;
 * ll_engine_cancel alone may be called from another thread or a signal handler.
 */
#ifndef LOCALLLM_H
#define LOCALLLM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- errors -------------------------------------------------------------------------------- */

/* One list feeds the codes, their names and the Python exception classes. */
#define LL_ERRORS(X)                                                                               \
    X(ARGUMENT, "argument")       /* the caller passed something out of range */                   \
    X(IO, "io")                   /* the system refused a file operation, or a device an answer */ \
    X(FORMAT, "format")           /* a file breaks its format's rules */                           \
    X(UNSUPPORTED, "unsupported") /* a valid file asks for what the engine or device lacks */      \
    X(MEMORY, "memory")           /* an allocation was refused */                                  \
    X(CONTEXT, "context")         /* a session or the KV pool is full; nothing was changed */      \
    X(CANCELLED, "cancelled")     /* ll_engine_cancel was called; nothing was changed */           \
    X(NUMERIC, "numeric")         /* a value that is not finite appeared; names the layer */

typedef enum ll_error_code {
    LL_OK = 0,
#define X(name, text) LL_ERR_##name,
    LL_ERRORS(X)
#undef X
} ll_error_code;

typedef struct ll_error {
    ll_error_code code;
    uint64_t offset; /* byte offset in the file for FORMAT errors of a file, else 0 */
    char message[512];
    int system; /* errno where a system call failed, else 0 */
} ll_error;

const char *ll_error_name(ll_error_code code);

/* ---- model --------------------------------------------------------------------------------- */

typedef struct ll_model ll_model;

/* Sizes in the field's terms; every count is at least 1 unless said otherwise. */
typedef struct ll_model_info {
    const char *arch;      /* general.architecture */
    const char *tokenizer; /* tokenizer.ggml.model */
    uint32_t n_layers, n_heads, n_kv_heads, head_dim, dim, ffn_dim, n_vocab;
    uint32_t n_ctx_train; /* the model's own context length */
    uint64_t n_params;
    uint64_t file_bytes;
    uint64_t weight_bytes; /* bytes of all tensors */
    uint64_t token_bytes;  /* bytes of weights read to compute one token with logits */
} ll_model_info;

ll_model *ll_model_open(const char *path, ll_error *err);
void ll_model_close(ll_model *m);
const ll_model_info *ll_model_get_info(const ll_model *m);

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

/* ---- text ---------------------------------------------------------------------------------- */

/* The texts of tokens that end an answer whatever a file says of them; NULL where i is none. */
const char *ll_end_text(size_t i);

/* Which tokens text may become. USER text never becomes a control token. */
typedef enum ll_parse { LL_PARSE_USER, LL_PARSE_CONTROL } ll_parse;

/* Writes at most `capacity` ids and sets *n_ids to the number the text has (call again with room
 * if larger). add_special adds BOS/EOS where the model's own metadata asks for them. */
bool ll_tokenize(const ll_model *m, const char *text, size_t n_bytes, ll_parse parse,
                 bool add_special, int32_t *ids, size_t capacity, size_t *n_ids, ll_error *err);

/* Bytes of one token, not NUL-terminated; may be part of a UTF-8 character. Control tokens have
 * no bytes unless `control` is true. Writes at most `capacity` bytes, returns the full length,
 * or -1 for an id outside the vocabulary. */
int32_t ll_token_bytes(const ll_model *m, int32_t id, bool control, char *out, size_t capacity);

bool ll_token_is_end(const ll_model *m, int32_t id); /* ends the answer */
bool ll_token_is_control(const ll_model *m, int32_t id);
int32_t ll_model_find_token(const ll_model *m, const char *text, size_t n_bytes); /* -1: none */
bool ll_model_adds_bos(const ll_model *m);
int32_t ll_model_bos(const ll_model *m); /* -1: none */
int32_t ll_model_eos(const ll_model *m); /* -1: none */

/* ---- engine -------------------------------------------------------------------------------- */

typedef struct ll_engine ll_engine;
typedef struct ll_session ll_session;

typedef struct ll_engine_options {
    uint32_t n_ctx;      /* positions per session; 0: the model's own */
    uint32_t n_sessions; /* sessions that may be open at once; 0: 1 */
    uint32_t kv_tokens;  /* tokens that the KV pool has room for, those of all sessions together, in
                            whole blocks; at least n_ctx; 0: n_sessions * n_ctx */
    uint32_t n_batch;    /* rows per step; 0: 512 */
    uint32_t n_logits;   /* rows per step whose logits are kept; 0: 1 */
    uint32_t n_threads;  /* 0: usable cores */
    const char *device;  /* what it runs on, "cpu"; NULL: the first there is */
    const char *kernels; /* of the device, by name; NULL: on the CPU $LOCALLLM_KERNELS, else the
                          * best this processor has */
    const char *kv_k;    /* what keys are stored as, "f16", "q8_0" or "q4_0"; NULL: "f16" */
    const char *kv_v;    /* values likewise */
} ll_engine_options;

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
ll_engine *ll_engine_open(const ll_model *m, const ll_engine_options *options, ll_error *err);
void ll_engine_close(ll_engine *e);
const char *ll_engine_device(const ll_engine *e);
const char *ll_engine_kernels(const ll_engine *e);
/* What bits it computes: those of the device's arithmetic in the version LL_ARITHMETIC, as
 * "canonical-1". */
const char *ll_engine_arithmetic(const ll_engine *e);
const char *ll_engine_kv_k(const ll_engine *e);
const char *ll_engine_kv_v(const ll_engine *e);
uint32_t ll_engine_n_threads(const ll_engine *e);
uint32_t ll_engine_n_ctx(const ll_engine *e);
uint32_t ll_engine_n_batch(const ll_engine *e);

ll_session *ll_session_open(ll_engine *e, ll_error *err);
void ll_session_close(ll_session *s);
uint32_t ll_session_n_tokens(const ll_session *s);
const int32_t *ll_session_ids(const ll_session *s); /* [n_tokens], valid until it changes */
/* Drops tokens from the end until at most n_tokens are left; returns the number left. That is 0
 * where layers that see a window have given back what the next token would see. */
uint32_t ll_session_truncate(ll_session *s, uint32_t n_tokens);
/* Makes the session hold as much of the beginning of ids [n_ids] as needs no computing: what it has
 * in common with its own tokens, or the full blocks of any session of the engine, closed ones too
 * as long as their blocks were not needed. Blocks are shared, never copied, until somebody writes
 * into one that is not full. Returns how many tokens the session holds. */
uint32_t ll_session_reuse(ll_session *s, const int32_t *ids, uint32_t n_ids);

/* The KV of LL_BLOCK_TOKENS consecutive tokens, which is all that a session is: with the same
 * tokens before it, the same model, types of keys and values and ll_engine_arithmetic it has the
 * same bytes in every engine. */
enum {
    LL_BLOCK_TOKENS = 64,
    LL_ARITHMETIC = 1, /* changes when any path computes other bits than before */
};
size_t ll_engine_block_bytes(const ll_engine *e);
/* Whether a session may become so long that layers with a window give blocks back: its early blocks
 * are then smaller, without the KV of those layers. */
bool ll_engine_gives_back(const ll_engine *e);
/* The bytes that are left of block i. */
size_t ll_session_block_bytes(const ll_session *s, uint32_t i);
/* Copies out the KV of tokens [LL_BLOCK_TOKENS * i, LL_BLOCK_TOKENS * (i + 1)). Errors: ARGUMENT;
 * IO or MEMORY where the device cannot copy, and `out` holds anything. */
bool ll_session_get_block(const ll_session *s, uint32_t i, void *out, ll_error *err);
/* Adds ids [LL_BLOCK_TOKENS] whose KV is known, or, with what get_block left of an early block, all
 * of it but what layers with a window do not need: a session that ends too close behind such a
 * block cannot go on, and truncate returns 0. Errors: ARGUMENT where the session does not end at a
 * block's end or n_bytes are not those of a block, CONTEXT, IO or MEMORY where the device cannot
 * copy; the session holds the same tokens then. */
bool ll_session_put_block(ll_session *s, const int32_t *ids, const void *kv, size_t n_bytes,
                          ll_error *err);

/* One row of a step: a token appended to a session. Rows of one session are in order. */
typedef struct ll_row {
    ll_session *session;
    int32_t id;
    bool logits; /* keep this row's logits */
} ll_row;

/* Feeds all rows or none. Errors: ARGUMENT; CONTEXT where a session would be longer than the
 * context, or the pool lacks blocks for all rows together; CANCELLED, NUMERIC, and IO or MEMORY
 * where the device fails. The kept logits are [n kept, n_vocab] float, in row order, valid until
 * the next step that ARGUMENT and CONTEXT do not refuse. */
bool ll_engine_step(ll_engine *e, const ll_row *rows, size_t n_rows, ll_error *err);
const float *ll_engine_logits(const ll_engine *e, size_t *n_kept);

/* Makes the running step (or the next one, if none is running) fail with LL_ERR_CANCELLED. */
void ll_engine_cancel(ll_engine *e);

/* Lets the caller look around during a long step: the thread that called ll_engine_step calls
 * poll(arg) some tens of milliseconds apart; true cancels the step. NULL: none. */
typedef bool ll_poll(void *arg);
void ll_engine_set_poll(ll_engine *e, ll_poll *poll, void *arg);

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

/* ---- sampler ------------------------------------------------------------------------------- */

/* The settings of a draw: type, name, lowest, highest, and the value that changes nothing. One list
 * feeds the struct, the check of its ranges, and what Python knows of them. */
#define LL_SAMPLING(X)                                                                             \
    X(float, temperature, 0, 100, 1) /* 0: greedy */                                               \
    X(int32_t, top_k, 0, INT32_MAX, 0)                                                             \
    X(float, top_p, 0, 1, 1)                                                                       \
    X(float, min_p, 0, 1, 0)                                                                       \
    X(float, typical_p, 0, 1, 1)                                                                   \
    X(float, repeat_penalty, 0.01, 100, 1)                                                         \
    X(float, frequency_penalty, -100, 100, 0)                                                      \
    X(float, presence_penalty, -100, 100, 0)                                                       \
    X(uint32_t, penalty_last_n, 0, INT32_MAX, 0) /* so many latest tokens the penalties see */     \
    X(uint64_t, seed, 0, UINT64_MAX, 0)

typedef struct ll_logit_bias {
    int32_t id;
    float bias;
} ll_logit_bias;

typedef struct ll_sampling {
#define X(type, name, low, high, off) type name;
    LL_SAMPLING(X)
#undef X
    const ll_logit_bias *biases; /* added to logits before all else; -infinity bans a token */
    size_t n_biases;
} ll_sampling;

/* One draw: the token that comes behind all that `session` holds, from kept row `row` of the last
 * step. The penalties see the session's tokens, and the draw depends on (seed, n_tokens) alone. */
typedef struct ll_draw {
    uint32_t row;
    const ll_session *session;
    const ll_sampling *sampling;
} ll_draw;

/* Draws ids [n_draws], several at once on the engine's threads. Errors: ARGUMENT for a row that is
 * not kept, a setting or a bias out of range; NUMERIC where no logit is finite, or one is NaN or
 * infinity. Of several errors it is the first draw's. */
bool ll_engine_sample(ll_engine *e, const ll_draw *draws, size_t n_draws, int32_t *ids,
                      ll_error *err);

/* ---- quantizer ----------------------------------------------------------------------------- */

typedef struct ll_quantizer ll_quantizer;

/* Rows of a tensor in a file. */
typedef struct ll_tensor_source {
    int fd;
    uint64_t offset;
    const char *type; /* a quant's name, or F8_E4M3 */
    uint64_t n_rows, row_dim;
    const uint32_t *row_order; /* [n_rows]: row i is the file's row_order[i]; NULL: as they lie */
    /* Of F8_E4M3, one for scale_rows x scale_cols values; NULL: all are 1. */
    const float *scales; /* [ceil(n_rows / scale_rows)][ceil(row_dim / scale_cols)] */
    uint32_t scale_rows, scale_cols;
} ll_tensor_source;

typedef struct ll_tensor_target {
    int fd;
    uint64_t offset;
    const char *quant;
    const float *importance; /* [row_dim] how much a column's squared errors count; NULL: all 1 */
} ll_tensor_target;

/* The sums over a tensor of importance * (x - x')^2 and importance * x^2. */
typedef struct ll_loss {
    double error, total;
} ll_loss;

ll_quantizer *ll_quantizer_open(uint32_t n_threads, ll_error *err); /* 0: usable cores */
void ll_quantizer_close(ll_quantizer *q);
/* Reads, quantizes and writes one tensor. poll(arg) is called by the calling thread some tens of
 * milliseconds apart; true ends it with CANCELLED. `loss` NULL: not measured. NUMERIC where a value
 * is not finite or out of the quant's range, IO where a file is too short or cannot be written;
 * part of the target may be written then. */
bool ll_quantizer_write(ll_quantizer *q, const ll_tensor_source *source,
                        const ll_tensor_target *target, ll_poll *poll, void *arg, ll_loss *loss,
                        ll_error *err);

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
