/* session: one timeline of tokens: a table of KV blocks for each layer group. */
#include <stdlib.h>

#include "engine/session.h"

_Static_assert((int)LL_BLOCK_TOKENS == (int)BLOCK_POSITIONS, "the interface's block is the pool's");

static uint32_t blocks_for(uint32_t n_tokens) {
    return n_tokens / BLOCK_POSITIONS + (n_tokens % BLOCK_POSITIONS != 0);
}

ll_session *ll_session_open(ll_engine *e, ll_error *err) {
    if (e->n_sessions >= e->n_sessions_most) {
        ll_fail(err, LL_ERR_CONTEXT, "the engine has room for %u sessions", e->n_sessions_most);
        return NULL;
    }
    uint32_t n_blocks = blocks_for(e->options.n_ctx), n_groups = e->plan.n_groups;
    ll_session *s = calloc(1, sizeof *s);
    uint32_t *tables = malloc((size_t)n_blocks * n_groups * sizeof(uint32_t));
    if (s == NULL || tables == NULL) {
        free(s);
        free(tables);
        ll_fail(err, LL_ERR_MEMORY, "no memory for a session of %u positions", e->options.n_ctx);
        return NULL;
    }
    s->engine = e;
    for (uint32_t g = 0; g < n_groups; g++) s->tables[g] = tables + (size_t)g * n_blocks;
    e->n_sessions++;
    return s;
}

static void drop_blocks(ll_session *s, uint32_t n_left) {
    for (; s->n_blocks > n_left; s->n_blocks--)
        for (uint32_t g = 0; g < s->engine->plan.n_groups; g++)
            kv_pool_drop(&s->engine->pools[g], s->tables[g][s->n_blocks - 1]);
}

void ll_session_close(ll_session *s) {
    if (s == NULL) return;
    drop_blocks(s, 0);
    s->engine->n_sessions--;
    free(s->tables[0]);
    free(s);
}

uint32_t ll_session_n_tokens(const ll_session *s) { return s->n_tokens; }

uint32_t ll_session_truncate(ll_session *s, uint32_t n_tokens) {
    if (n_tokens < s->n_tokens) s->n_tokens = n_tokens;
    drop_blocks(s, blocks_for(s->n_tokens));
    return s->n_tokens;
}

bool ll_session_share(ll_session *to, const ll_session *from, uint32_t n_tokens, ll_error *err) {
    ll_engine *e = to->engine;
    if (from->engine != e || from == to || to->n_tokens > 0 || n_tokens > from->n_tokens)
        return ll_fail(err, LL_ERR_ARGUMENT,
                       "a session of %u tokens cannot take %u tokens of one that has %u",
                       to->n_tokens, n_tokens, from->n_tokens);
    for (; to->n_blocks < blocks_for(n_tokens); to->n_blocks++)
        for (uint32_t g = 0; g < e->plan.n_groups; g++) {
            uint32_t block = from->tables[g][to->n_blocks];
            kv_pool_share(&e->pools[g], block);
            to->tables[g][to->n_blocks] = block;
        }
    to->n_tokens = n_tokens;
    return true;
}

/* Gives the session a block of its own where the next token would go into a shared one. */
static bool own_last_block(ll_session *s, ll_error *err) {
    ll_engine *e = s->engine;
    uint32_t i = s->n_tokens / BLOCK_POSITIONS;
    if (s->n_tokens % BLOCK_POSITIONS == 0 || s->n_pending > 0) return true;
    for (uint32_t g = 0; g < e->plan.n_groups; g++) {
        uint32_t shared = s->tables[g][i];
        if (!kv_pool_is_shared(&e->pools[g], shared)) continue;
        if (e->pools[g].n_free == 0)
            return ll_fail(err, LL_ERR_CONTEXT, "all %u KV blocks are in use",
                           e->pools[g].n_blocks);
        s->tables[g][i] = kv_pool_take(&e->pools[g]);
        e->kind->copy_block(e->device, g, shared, s->tables[g][i]);
        kv_pool_drop(&e->pools[g], shared);
    }
    return true;
}

bool ll_session_get_block(const ll_session *s, uint32_t i, void *out, ll_error *err) {
    ll_engine *e = s->engine;
    if (i >= s->n_tokens / BLOCK_POSITIONS)
        return ll_fail(err, LL_ERR_ARGUMENT, "block %u of a session of %u tokens", i, s->n_tokens);
    char *at = out;
    for (uint32_t g = 0; g < e->plan.n_groups; g++) {
        e->kind->get_block(e->device, g, s->tables[g][i], at);
        at += e->kind->block_bytes(e->device, g);
    }
    return true;
}

bool ll_session_put_block(ll_session *s, const void *kv, ll_error *err) {
    ll_engine *e = s->engine;
    if (s->n_tokens % BLOCK_POSITIONS != 0)
        return ll_fail(err, LL_ERR_ARGUMENT, "a block behind %u tokens, expected a multiple of %d",
                       s->n_tokens, BLOCK_POSITIONS);
    uint32_t i = s->n_tokens / BLOCK_POSITIONS;
    if (!session_reserve(s, s->n_tokens + BLOCK_POSITIONS, err)) return false;
    const char *at = kv;
    for (uint32_t g = 0; g < e->plan.n_groups; g++) {
        e->kind->put_block(e->device, g, s->tables[g][i], at);
        at += e->kind->block_bytes(e->device, g);
    }
    s->n_tokens += BLOCK_POSITIONS;
    return true;
}

bool session_reserve(ll_session *s, uint32_t n_tokens, ll_error *err) {
    ll_engine *e = s->engine;
    uint32_t needed = blocks_for(n_tokens);
    if (n_tokens > e->options.n_ctx)
        return ll_fail(err, LL_ERR_CONTEXT, "%u tokens do not fit a context of %u", n_tokens,
                       e->options.n_ctx);
    if (!own_last_block(s, err)) return false;
    for (; s->n_blocks < needed; s->n_blocks++)
        for (uint32_t g = 0; g < e->plan.n_groups; g++) {
            if (e->pools[g].n_free == 0) { /* groups advance together: undo this block's others */
                while (g > 0) {
                    g--;
                    kv_pool_drop(&e->pools[g], s->tables[g][s->n_blocks]);
                }
                return ll_fail(err, LL_ERR_CONTEXT, "all %u KV blocks are in use",
                               e->pools[g].n_blocks);
            }
            s->tables[g][s->n_blocks] = kv_pool_take(&e->pools[g]);
        }
    return true;
}
