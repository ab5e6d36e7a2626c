/* engine: a model on a device with its KV pool, and the sessions it runs. */
#ifndef LL_ENGINE_ENGINE_H
#define LL_ENGINE_ENGINE_H

#include "device/device.h"
#include "engine/kv_index.h"
#include "engine/kv_pool.h"

struct ll_engine {
    plan plan;
    device_options options;
    const device_kind *kind;
    device *device;
    char arithmetic[40];              /* see ll_engine_arithmetic */
    kv_pool pools[MAX_GROUPS];        /* one for each layer group of the plan */
    uint32_t blocks_most[MAX_GROUPS]; /* that a session holds of a group */
    kv_index index;
    uint32_t n_sessions; /* open */
    uint32_t n_sessions_most;

    /* The batch being built, [n_batch] each. */
    int32_t *ids;
    uint32_t *positions, *kept;
    segment *segments;
    uint32_t n_kept; /* of the last step */

    char *draw_scratch; /* see draw.h */

    atomic_bool cancel;
    ll_poll *poll;
    void *poll_arg;
};

/* A session's blocks of one layer group: block of position p: blocks[p / BLOCK_POSITIONS]. Layers
 * that see a window have given back those before `first`. */
typedef struct kv_table {
    uint32_t *blocks; /* [blocks of n_ctx] */
    uint32_t first;

    /* While a step's blocks are reserved: what of them this table has let go. */
    uint32_t n_given_back;
    uint32_t shared_last; /* what the next token goes into and others hold; NO_KV_BLOCK: none */
} kv_table;

struct ll_session {
    ll_engine *engine;
    uint32_t n_tokens;
    uint32_t n_pending; /* rows of the step being run */
    uint32_t n_blocks;  /* held in each table, those counted that were given back */
    int32_t *ids;       /* [n_ctx] */
    kv_name *names;     /* [blocks of n_ctx] of the blocks that are full */
    kv_table tables[MAX_GROUPS];
    ll_session *next_pending; /* of the sessions that the step has rows of */
};

/* ll_engine_plan and ll_engine_open on the engine's own model. */
bool engine_plan_memory(const model *m, const ll_engine_options *options, ll_memory *out,
                        ll_error *err);
ll_engine *engine_open(const model *m, const ll_engine_options *options, ll_error *err);

#endif
