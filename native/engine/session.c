/* session: one timeline of tokens: for each layer group a table of KV blocks.
 *
 * Layers with a window give back what left it, but no sooner than they need room: a session holds
 * up to `blocks_most` blocks of a group, enough for the largest step wherever it begins, and can be
 * truncated as far as what it still holds. A block that is full is named in the engine's index;
 * where another session has computed the same, both go on with one of the two.
 */
#include "engine/session.h"

#include <stdlib.h>
#include <string.h>

_Static_assert((int)LL_BLOCK_TOKENS == (int)BLOCK_POSITIONS, "the interface's block is the pool's");

uint32_t session_blocks_for(uint32_t n_tokens) {
    return n_tokens / BLOCK_POSITIONS + (n_tokens % BLOCK_POSITIONS != 0);
}

static size_t table_bytes(const plan *p, uint32_t n_ctx) {
    size_t per_block = sizeof(kv_name) + p->n_groups * sizeof(uint32_t);
    return session_blocks_for(n_ctx) * per_block + n_ctx * sizeof(int32_t);
}

size_t session_bytes(const plan *p, uint32_t n_ctx) {
    return sizeof(ll_session) + table_bytes(p, n_ctx);
}

ll_session *ll_session_open(ll_engine *e, ll_error *err) {
    if (e->n_sessions >= e->n_sessions_most) {
        ll_fail(err, LL_ERR_CONTEXT, "the engine has room for %u sessions", e->n_sessions_most);
        return NULL;
    }
    uint32_t n_blocks = session_blocks_for(e->options.n_ctx);
    ll_session *s = calloc(1, sizeof *s);
    kv_name *names = malloc(table_bytes(&e->plan, e->options.n_ctx));
    if (s == NULL || names == NULL) {
        free(s);
        free(names);
        ll_fail(err, LL_ERR_MEMORY, "no memory for a session of %u positions", e->options.n_ctx);
        return NULL;
    }
    s->engine = e;
    s->names = names;
    uint32_t *blocks = (uint32_t *)(void *)(names + n_blocks);
    for (uint32_t g = 0; g < e->plan.n_groups; g++, blocks += n_blocks)
        s->tables[g].blocks = blocks;
    s->ids = (int32_t *)blocks;
    e->n_sessions++;
    return s;
}

/* Drops what lies behind the first n_left blocks, from the end: blocks are taken again in the order
 * they were dropped in, and later ones are of no use without earlier ones. */
static void drop_blocks(ll_session *s, uint32_t n_left) {
    for (uint32_t g = 0; g < s->engine->plan.n_groups; g++) {
        kv_table *t = &s->tables[g];
        for (uint32_t i = s->n_blocks; i > n_left && i > t->first; i--)
            kv_pool_drop(&s->engine->pools[g], t->blocks[i - 1]);
        if (t->first > n_left) t->first = n_left;
    }
    if (s->n_blocks > n_left) s->n_blocks = n_left;
}

/* Gives back the blocks of a group before the one of number n_gone. */
static void give_back(ll_session *s, uint32_t g, uint32_t n_gone) {
    kv_table *t = &s->tables[g];
    for (; t->first < n_gone; t->first++)
        if (t->first < s->n_blocks) kv_pool_drop(&s->engine->pools[g], t->blocks[t->first]);
}

void ll_session_close(ll_session *s) {
    if (s == NULL) return;
    drop_blocks(s, 0);
    s->engine->n_sessions--;
    free(s->names);
    free(s);
}

uint32_t ll_session_n_tokens(const ll_session *s) { return s->n_tokens; }
const int32_t *ll_session_ids(const ll_session *s) { return s->ids; }

/* The first block of a group that the token behind n_tokens sees. */
static uint32_t first_seen(const ll_engine *e, uint32_t g, uint32_t n_tokens) {
    return group_first_seen(&e->plan.groups[g], n_tokens) / BLOCK_POSITIONS;
}

/* Whether the session could go on behind its first n_tokens tokens. */
static bool holds_window(const ll_session *s, uint32_t n_tokens) {
    for (uint32_t g = 0; g < s->engine->plan.n_groups; g++)
        if (s->tables[g].first > first_seen(s->engine, g, n_tokens)) return false;
    return true;
}

uint32_t ll_session_truncate(ll_session *s, uint32_t n_tokens) {
    if (n_tokens > s->n_tokens) n_tokens = s->n_tokens;
    s->n_tokens = holds_window(s, n_tokens) ? n_tokens : 0;
    drop_blocks(s, session_blocks_for(s->n_tokens));
    return s->n_tokens;
}

/* ---- room ------------------------------------------------------------------------------------ */

/* Blocks are counted before any is taken: every session lets go of what it will not hold beside the
 * new ones, and then the pool has enough for all or not. Where it has not, the sessions hold again
 * what they held: nothing was taken meanwhile, so those blocks are as they were. */

static uint32_t *last_block(const ll_session *s, uint32_t g) {
    return &s->tables[g].blocks[s->n_tokens / BLOCK_POSITIONS];
}

static bool writes_last_block(const ll_session *s) { return s->n_tokens % BLOCK_POSITIONS != 0; }

/* How many blocks of a group the session takes to hold n_blocks. */
static uint32_t count_new(const ll_session *s, uint32_t g, uint32_t n_blocks) {
    return n_blocks - s->n_blocks + (s->tables[g].shared_last != NO_KV_BLOCK);
}

/* Lets go of a last block that others hold and the next token is written into, and of blocks that
 * left the window, as many as are more than a session may hold of n_blocks. */
static void let_go(ll_session *s, uint32_t g, uint32_t n_blocks) {
    const ll_engine *e = s->engine;
    kv_pool *pool = &s->engine->pools[g];
    kv_table *t = &s->tables[g];
    uint32_t first = t->first;
    bool copies = writes_last_block(s) && kv_pool_is_shared(pool, *last_block(s, g));
    t->shared_last = copies ? *last_block(s, g) : NO_KV_BLOCK;
    if (copies) kv_pool_drop(pool, t->shared_last);
    if (n_blocks - first > e->blocks_most[g]) give_back(s, g, n_blocks - e->blocks_most[g]);
    t->n_given_back = t->first - first;
}

static void hold_window_again(ll_session *s, uint32_t g) {
    kv_table *t = &s->tables[g];
    for (; t->n_given_back > 0; t->n_given_back--)
        kv_pool_share(&s->engine->pools[g], t->blocks[--t->first]);
}

/* Whether it was copied meanwhile or not. */
static void hold_last_again(ll_session *s, uint32_t g) {
    kv_pool *pool = &s->engine->pools[g];
    uint32_t *last = last_block(s, g), shared = s->tables[g].shared_last;
    if (shared == NO_KV_BLOCK) return;
    if (*last != shared) kv_pool_drop(pool, *last);
    kv_pool_share(pool, shared);
    *last = shared;
}

static uint32_t take_block(ll_engine *e, uint32_t g) {
    uint32_t block = kv_pool_take(&e->pools[g]);
    kv_index_forget(&e->index, g, block);
    return block;
}

/* Gives the session a block of its own for the one it let go of. */
static bool copy_last(ll_session *s, uint32_t g, ll_error *err) {
    ll_engine *e = s->engine;
    uint32_t shared = s->tables[g].shared_last;
    if (shared == NO_KV_BLOCK) return true;
    *last_block(s, g) = take_block(e, g);
    return e->kind->copy_block(e->device, g, shared, *last_block(s, g), err);
}

static bool check_room(const ll_engine *e, uint32_t g, uint32_t n_needed, ll_error *err) {
    uint32_t n_free = e->pools[g].n_free;
    if (n_needed <= n_free) return true;
    return ll_fail(err, LL_ERR_CONTEXT, "the KV pool has %u free blocks of %d tokens, expected %u",
                   n_free, BLOCK_POSITIONS, n_needed);
}

static uint32_t blocks_with_pending(const ll_session *s) {
    return session_blocks_for(s->n_tokens + s->n_pending);
}

bool session_check(const ll_session *s, ll_error *err) {
    uint32_t n_ctx = s->engine->options.n_ctx;
    if (s->n_pending > n_ctx - s->n_tokens)
        return ll_fail(err, LL_ERR_CONTEXT, "%u tokens do not fit a context of %u",
                       s->n_tokens + s->n_pending, n_ctx);
    if (!holds_window(s, s->n_tokens))
        return ll_fail(err, LL_ERR_ARGUMENT, "the session lacks what token %u sees", s->n_tokens);
    return true;
}

/* All of the sessions let go of what they do of one group; CONTEXT where that is not enough. */
static bool let_all_go(ll_session *first, uint32_t g, ll_error *err) {
    uint32_t n_needed = 0;
    for (ll_session *s = first; s != NULL; s = s->next_pending) {
        let_go(s, g, blocks_with_pending(s));
        n_needed += count_new(s, g, blocks_with_pending(s));
    }
    return check_room(first->engine, g, n_needed, err);
}

static bool copy_all_last(ll_session *first, ll_error *err) {
    for (ll_session *s = first; s != NULL; s = s->next_pending)
        for (uint32_t g = 0; g < s->engine->plan.n_groups; g++)
            if (!copy_last(s, g, err)) return false;
    return true;
}

/* The first n_groups groups of the sessions hold again what they let go of. Once a block was taken,
 * what left a window may be another's: that is given back for good. */
static void undo(ll_session *first, uint32_t n_groups, bool window) {
    for (ll_session *s = first; s != NULL; s = s->next_pending)
        for (uint32_t g = 0; g < n_groups; g++) {
            hold_last_again(s, g);
            if (window) hold_window_again(s, g);
        }
}

/* Takes what there is room for. */
static void take_all(ll_session *first) {
    for (ll_session *s = first; s != NULL; s = s->next_pending) {
        ll_engine *e = s->engine;
        for (uint32_t g = 0; g < e->plan.n_groups; g++)
            if (writes_last_block(s)) kv_index_forget(&e->index, g, *last_block(s, g));
        for (; s->n_blocks < blocks_with_pending(s); s->n_blocks++)
            for (uint32_t g = 0; g < e->plan.n_groups; g++)
                s->tables[g].blocks[s->n_blocks] = take_block(e, g);
    }
}

bool session_reserve(ll_session *first, ll_error *err) {
    uint32_t n_groups = first->engine->plan.n_groups, n_done = 0;
    bool has_room = true;
    while (has_room && n_done < n_groups) has_room = let_all_go(first, n_done++, err);
    if (has_room && copy_all_last(first, err)) {
        take_all(first);
        return true;
    }
    undo(first, n_done, !has_room);
    return false;
}

/* ---- sharing --------------------------------------------------------------------------------- */

/* Names block i, which is full, or goes on with the one of that name. */
static void name_block(ll_session *s, uint32_t i) {
    ll_engine *e = s->engine;
    const int32_t *ids = s->ids + (size_t)i * BLOCK_POSITIONS;
    kv_name parent = i > 0 ? s->names[i - 1] : 0;
    const kv_entry *entry = kv_index_find(&e->index, parent, ids);
    for (uint32_t g = 0; g < e->plan.n_groups; g++) {
        kv_table *t = &s->tables[g];
        if (i < t->first) continue;
        uint32_t known = entry != NULL ? entry->blocks[g] : NO_KV_BLOCK;
        if (known == NO_KV_BLOCK) {
            entry = kv_index_add(&e->index, parent, ids, g, t->blocks[i]);
            continue;
        }
        kv_pool_share(&e->pools[g], known);
        kv_pool_drop(&e->pools[g], t->blocks[i]);
        t->blocks[i] = known;
    }
    s->names[i] = entry->name;
}

void session_commit(ll_session *s) {
    uint32_t n_full = s->n_tokens / BLOCK_POSITIONS;
    s->n_tokens += s->n_pending;
    s->n_pending = 0;
    for (; n_full < s->n_tokens / BLOCK_POSITIONS; n_full++) name_block(s, n_full);
}

/* What of ids [n_ids] is in blocks: for each full block the entry that has it, as far as there is
 * one. */
typedef struct known_walk {
    const kv_index *index;
    const int32_t *ids;
    uint32_t n_blocks, i; /* i: of the block behind the last entry */
    kv_name name;         /* of what lies before it */
} known_walk;

static const kv_entry *next_known(known_walk *w) {
    if (w->i == w->n_blocks) return NULL;
    const int32_t *ids = w->ids + (size_t)w->i * BLOCK_POSITIONS;
    const kv_entry *entry = kv_index_find(w->index, w->name, ids);
    if (entry == NULL) return NULL;
    w->name = entry->name;
    w->i++;
    return entry;
}

/* The most blocks of `known` with which a session could go on: each group must have all that the
 * next token sees. */
static uint32_t count_usable(const ll_engine *e, known_walk known) {
    uint32_t usable = 0, first[MAX_GROUPS] = {0}; /* from there on all are there */
    for (const kv_entry *entry; (entry = next_known(&known)) != NULL;) {
        bool is_usable = true;
        for (uint32_t g = 0; g < e->plan.n_groups; g++) {
            if (entry->blocks[g] == NO_KV_BLOCK) first[g] = known.i;
            if (first[g] > first_seen(e, g, known.i * BLOCK_POSITIONS)) is_usable = false;
        }
        if (is_usable) usable = known.i;
    }
    return usable;
}

uint32_t ll_session_reuse(ll_session *s, const int32_t *ids, uint32_t n_ids) {
    ll_engine *e = s->engine;
    if (n_ids > e->options.n_ctx) n_ids = e->options.n_ctx;
    uint32_t n_own = 0;
    while (n_own < n_ids && n_own < s->n_tokens && s->ids[n_own] == ids[n_own]) n_own++;
    known_walk known = {.index = &e->index, .ids = ids, .n_blocks = n_ids / BLOCK_POSITIONS};
    uint32_t n_known = count_usable(e, known);
    if (ll_session_truncate(s, n_own) >= n_known * BLOCK_POSITIONS) return s->n_tokens;

    /* All of the tables anew, from the index: the session's own full blocks are there too. Nothing
     * is taken meanwhile, so no block loses its content. */
    drop_blocks(s, 0);
    for (uint32_t i = 0; i < n_known; i++) {
        const kv_entry *entry = next_known(&known);
        s->names[i] = entry->name;
        for (uint32_t g = 0; g < e->plan.n_groups; g++) {
            if (i < first_seen(e, g, n_known * BLOCK_POSITIONS)) continue;
            kv_pool_share(&e->pools[g], entry->blocks[g]);
            s->tables[g].blocks[i] = entry->blocks[g];
        }
    }
    s->n_blocks = n_known;
    s->n_tokens = n_known * BLOCK_POSITIONS;
    for (uint32_t g = 0; g < e->plan.n_groups; g++)
        s->tables[g].first = first_seen(e, g, s->n_tokens);
    memcpy(s->ids, ids, s->n_tokens * sizeof *ids);
    return s->n_tokens;
}

/* ---- KV in and out --------------------------------------------------------------------------- */

/* A whole block has the KV of every group. An early block, from which layers with a window have
 * taken theirs back, has that of the groups without a window alone. */
static bool has_group(const ll_engine *e, uint32_t g, bool whole) {
    return whole || e->plan.groups[g].kind == GROUP_FULL;
}

static size_t part_bytes(const ll_engine *e, bool whole) {
    size_t n_bytes = 0;
    for (uint32_t g = 0; g < e->plan.n_groups; g++)
        if (has_group(e, g, whole)) n_bytes += e->kind->block_bytes(e->device, g);
    return n_bytes;
}

size_t ll_engine_block_bytes(const ll_engine *e) { return part_bytes(e, true); }

static bool has_whole(const ll_session *s, uint32_t i) {
    for (uint32_t g = 0; g < s->engine->plan.n_groups; g++)
        if (i < s->tables[g].first) return false;
    return true;
}

size_t ll_session_block_bytes(const ll_session *s, uint32_t i) {
    return part_bytes(s->engine, has_whole(s, i));
}

bool ll_session_get_block(const ll_session *s, uint32_t i, void *out, ll_error *err) {
    ll_engine *e = s->engine;
    if (i >= s->n_tokens / BLOCK_POSITIONS)
        return ll_fail(err, LL_ERR_ARGUMENT, "block %u of a session of %u tokens", i, s->n_tokens);
    char *at = out;
    bool whole = has_whole(s, i);
    for (uint32_t g = 0; g < e->plan.n_groups; g++) {
        if (!has_group(e, g, whole)) continue;
        if (!e->kind->get_block(e->device, g, s->tables[g].blocks[i], at, err)) return false;
        at += e->kind->block_bytes(e->device, g);
    }
    return true;
}

static bool check_put(const ll_session *s, const int32_t *ids, size_t n_bytes, ll_error *err) {
    const ll_engine *e = s->engine;
    if (s->n_tokens % BLOCK_POSITIONS != 0)
        return ll_fail(err, LL_ERR_ARGUMENT, "a block behind %u tokens, expected a multiple of %d",
                       s->n_tokens, BLOCK_POSITIONS);
    if (n_bytes == 0 || (n_bytes != part_bytes(e, true) && n_bytes != part_bytes(e, false)))
        return ll_fail(err, LL_ERR_ARGUMENT, "a block of %zu bytes, expected %zu", n_bytes,
                       part_bytes(e, true));
    for (int i = 0; i < BLOCK_POSITIONS; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= e->plan.model->n_vocab)
            return ll_fail(err, LL_ERR_ARGUMENT, "token %d is outside the vocabulary of %u", ids[i],
                           e->plan.model->n_vocab);
    if (e->options.n_ctx - s->n_tokens < BLOCK_POSITIONS)
        return ll_fail(err, LL_ERR_CONTEXT, "%u tokens do not fit a context of %u",
                       s->n_tokens + BLOCK_POSITIONS, e->options.n_ctx);
    return true;
}

/* Makes room for one more block of the groups that are part of it. */
static bool reserve_put(ll_session *s, bool whole, ll_error *err) {
    uint32_t n_blocks = s->n_blocks + 1, g = 0;
    bool has_room = true;
    for (; has_room && g < s->engine->plan.n_groups; g++) {
        if (!has_group(s->engine, g, whole)) continue;
        let_go(s, g, n_blocks);
        has_room = check_room(s->engine, g, count_new(s, g, n_blocks), err);
    }
    while (!has_room && g-- > 0)
        if (has_group(s->engine, g, whole)) hold_window_again(s, g);
    return has_room;
}

/* Gives back blocks [MAX_GROUPS] that no session holds yet; NO_KV_BLOCK is none. */
static void drop_fresh(ll_engine *e, const uint32_t *fresh) {
    for (uint32_t g = 0; g < e->plan.n_groups; g++)
        if (fresh[g] != NO_KV_BLOCK) kv_pool_drop(&e->pools[g], fresh[g]);
}

/* Copies each group's part of a block into a fresh one, [MAX_GROUPS], which the session does not
 * hold yet; NO_KV_BLOCK where there is no such part. */
static bool put_parts(ll_session *s, const char *kv, bool whole, uint32_t *fresh, ll_error *err) {
    ll_engine *e = s->engine;
    for (uint32_t g = 0; g < MAX_GROUPS; g++) fresh[g] = NO_KV_BLOCK;
    for (uint32_t g = 0; g < e->plan.n_groups; g++) {
        if (!has_group(e, g, whole)) continue;
        fresh[g] = take_block(e, g);
        if (!e->kind->put_block(e->device, g, fresh[g], kv, err)) {
            drop_fresh(e, fresh);
            return false;
        }
        kv += e->kind->block_bytes(e->device, g);
    }
    return true;
}

bool ll_session_put_block(ll_session *s, const int32_t *ids, const void *kv, size_t n_bytes,
                          ll_error *err) {
    ll_engine *e = s->engine;
    bool whole = n_bytes == part_bytes(e, true);
    uint32_t fresh[MAX_GROUPS], i = s->n_blocks;
    if (!check_put(s, ids, n_bytes, err) || !reserve_put(s, whole, err) ||
        !put_parts(s, kv, whole, fresh, err))
        return false;
    for (uint32_t g = 0; g < e->plan.n_groups; g++) {
        if (fresh[g] == NO_KV_BLOCK)
            give_back(s, g, i + 1); /* what lies before it is of no use without it */
        else
            s->tables[g].blocks[i] = fresh[g];
    }
    s->n_blocks++;
    memcpy(s->ids + s->n_tokens, ids, BLOCK_POSITIONS * sizeof *ids);
    s->n_pending = BLOCK_POSITIONS;
    session_commit(s);
    return true;
}
