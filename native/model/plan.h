/* plan: the forward pass of one model as a flat array of steps, built once at load.
 *
 * A step is what can be computed between two meetings of all threads with nothing fused left out.
 * It names weights by id and buffers by id, never an address, a position or a thread count, so the
 * same array serves execution on any device, the memory plan, and tracing.
 */
#ifndef LL_MODEL_PLAN_H
#define LL_MODEL_PLAN_H

#include "model/model.h"

enum { NO_WEIGHT = UINT32_MAX };

/* Which rows of a batch a step leaves an output of. */
typedef enum row_choice {
    ROWS_ALL,
    ROWS_KEPT, /* those whose logits are wanted; may be none */
    N_ROW_CHOICES
} row_choice;

/* Activations, float. The residual has a row for each of the batch and outlives the steps; the
 * others have a row for each that their step runs on, and share memory: each is rounded into the
 * next matmul's input before the next one is written, or, between queries and heads, read by the
 * very task that then writes it.
 */
#define PLAN_BUFFERS(X)                                                                            \
    X(X_RESIDUAL) /* [dim] the residual stream */                                                  \
    X(X_QUERY)    /* [n_heads * k_dim] rotated queries */                                          \
    X(X_HEADS)    /* [n_heads * v_dim] what attention returns */                                   \
    X(X_HIDDEN)   /* [ffn_dim] gated activations */                                                \
    X(X_OUTPUT)   /* [dim] a projection that is normed before it joins the residual */

typedef enum buffer_id {
#define X(id) id,
    PLAN_BUFFERS(X)
#undef X
        N_BUFFERS
} buffer_id;

typedef enum step_kind {
    STEP_EMBED,   /* residual = table[id] * scale */
    STEP_QKV,     /* norm, q k v, bias, q/k-norm, RoPE; queries out, keys and values appended */
    STEP_ATTEND,  /* heads = attention(queries, KV) */
    STEP_PROJECT, /* residual += w[0] . in, through post_norm where the family has one */
    STEP_GATE_UP, /* norm; hidden = act(gate . x) * (up . x) */
    STEP_LOGITS,  /* last norm; logits of the rows that are wanted */
} step_kind;

typedef struct step {
    step_kind kind;
    const char *name; /* what a profile calls it: "qkv", "attn_out", "down" … */
    uint32_t layer;   /* n_layers for what belongs to none */
    row_choice rows;
    buffer_id in, out;
    uint32_t table; /* of which each row of the batch reads the row of its token, or NO_WEIGHT */
    uint32_t norm;  /* weight of the RMS norm of the input, or NO_WEIGHT */
    uint32_t w[3];  /* matrices: q k v; gate up; one; NO_WEIGHT where unused */
    row_choice w_rows[3]; /* that each of them multiplies: keys and values are of all rows */
    uint32_t bias[3];
    uint32_t head_norm[2]; /* of q and k */
    uint32_t post_norm;    /* of the output, before it joins the residual */
    uint32_t rope;         /* index into model.ropes */
    bool attends;          /* it reads KV */
    uint32_t group;        /* layer group whose KV it appends to or reads */
    uint32_t group_layer;  /* which layer of that group */
} step;

/* The rows whose input a step reads: all that any of its matrices multiplies. */
static inline row_choice step_input_rows(const step *s) {
    for (int i = 0; i < 3; i++)
        if (s->w_rows[i] == ROWS_ALL) return ROWS_ALL;
    return ROWS_KEPT;
}

/* What a token sees of the layers of a group. */
typedef enum group_kind {
    GROUP_FULL,     /* all positions up to its own */
    GROUP_WINDOWED, /* the last `window` of them */
} group_kind;

/* Layers whose KV has one shape and of which a token sees the same: they share block tables. */
typedef struct layer_group {
    group_kind kind;
    uint32_t window; /* 0 where the kind has none */
    uint32_t n_kv_heads;
    uint32_t k_dim, v_dim; /* channels of a key, of a value */
    uint32_t n_layers;
} layer_group;

/* The first position that the token at `position` sees; the last is its own. */
uint32_t group_first_seen(const layer_group *g, uint32_t position);

/* Positions that n_tokens consecutive tokens see at most, in a context of n_ctx. */
uint32_t group_most_seen(const layer_group *g, uint32_t n_tokens, uint32_t n_ctx);

enum { MAX_GROUPS = 8 };

typedef struct plan {
    const model *model;
    step *steps; /* [n_steps] */
    size_t n_steps;
    uint32_t buffer_dim[N_BUFFERS]; /* floats per row; 0: never used */
    layer_group groups[MAX_GROUPS]; /* [n_groups] */
    uint32_t n_groups;
} plan;

/* Errors: MEMORY; UNSUPPORTED: the layers are of more than MAX_GROUPS groups. */
bool plan_open(plan *p, const model *m, ll_error *err);
void plan_close(plan *p);

/* Counts a layer of this shape and sight (n_layers is not read) to its group, which is made where
 * it is the first. Errors: UNSUPPORTED. */
bool plan_take_group(plan *p, const layer_group *of, uint32_t *group, ll_error *err);

#endif
