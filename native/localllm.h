/* localllm.h: models that answer; the C interface of the engine.
 *
 * A model is one GGUF file mapped read-only. An engine runs one model with its threads and its KV
 * pool. A session is one timeline of tokens inside an engine. One step feeds rows (tokens) of any
 * number of sessions at once and leaves the logits of the rows that asked for them, from which the
 * next tokens are drawn:
 *
 *   ll_error err;
 *   ll_model *m = ll_model_open(path, &err);
 *   ll_engine *e = m == NULL ? NULL : ll_engine_open(m, &(ll_engine_options){.n_ctx = 512}, &err);
 *   ll_session *s = e == NULL ? NULL : ll_session_open(e, &err);
 *   int32_t ids[512], id;
 *   ll_row rows[512];
 *   size_t n = 0;
 *   const char *asked = "The sky is";
 *   bool ok = s != NULL &&
 *             ll_tokenize(m, asked, strlen(asked), LL_PARSE_USER, true, ids, 512, &n, &err);
 *   for (size_t i = 0; i < n; i++) rows[i] = (ll_row){s, ids[i], i + 1 == n};
 *   ll_sampling greedy = {.top_p = 1, .typical_p = 1, .repeat_penalty = 1};
 *   while (ok && ll_session_n_tokens(s) < 32) {
 *       ok = ll_engine_step(e, rows, n, &err) &&
 *            ll_engine_sample(e, &(ll_draw){0, s, &greedy}, 1, &id, &err);
 *       if (!ok || ll_token_is_end(m, id)) break;
 *       char text[64];
 *       int32_t n_bytes = ll_token_bytes(m, id, false, text, sizeof text);
 *       printf("%.*s", n_bytes < 64 ? n_bytes : 64, text);
 *       rows[0] = (ll_row){s, id, true};
 *       n = 1;
 *   }
 *   if (!ok) fprintf(stderr, "%s: %s\n", ll_error_name(err.code), err.message);
 *   ll_session_close(s);
 *   ll_engine_close(e);
 *   ll_model_close(m);
 *
 * Every function that can fail returns false or NULL and fills the ll_error it was given. Nothing
 * prints, exits or aborts. Close functions accept NULL. An engine has one caller at a time;
 * ll_engine_cancel alone may be called from another thread or a signal handler.
 *
 * localllm_measure.h says what a file holds, what an engine will take and where its time goes;
 * localllm_quantize.h writes tensors in other quants.
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

#endif
