/* engine: builds a batch from rows of many sessions, runs it, and commits or undoes it whole. */
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/system.h"
#include "device/device_list.h"
#include "engine/draw.h"
#include "engine/session.h"
#include "model/work.h"

enum { DEFAULT_BATCH = 512, MAX_THREADS = 512, MAX_CONTEXT = 1 << 24 };

static bool resolve_kv(const char *name, kv_type *out, ll_error *err) {
    *out = KV_F16;
    if (name == NULL || kv_find(name, out)) return true;
    char known[128] = "";
    for (kv_type type = 0; type < KV_TYPE_COUNT; type++)
        ll_list_name(known, sizeof known, kv_names[type]);
    return ll_fail(err, LL_ERR_ARGUMENT, "no type \"%.32s\" of keys and values; there are %s", name,
                   known);
}

/* Fills what the caller left to us and checks the rest. */
static bool resolve_options(const model *m, const ll_engine_options *in, device_options *out,
                            uint32_t *n_sessions, ll_error *err) {
    *n_sessions = in->n_sessions != 0 ? in->n_sessions : 1;
    *out = (device_options){
        .n_ctx = in->n_ctx != 0 ? in->n_ctx : m->n_ctx_train,
        .n_batch = in->n_batch != 0 ? in->n_batch : DEFAULT_BATCH,
        .n_logits = in->n_logits != 0 ? in->n_logits : 1,
        .n_threads = in->n_threads != 0 ? in->n_threads : system_usable_cores(),
        .kernels = in->kernels,
    };
    if (!resolve_kv(in->kv_k, &out->kv_k, err) || !resolve_kv(in->kv_v, &out->kv_v, err))
        return false;
    if (out->n_ctx > MAX_CONTEXT || out->n_threads > MAX_THREADS || out->n_batch > MAX_CONTEXT ||
        *n_sessions > MAX_CONTEXT)
        return ll_fail(err, LL_ERR_ARGUMENT,
                       "context %u, batch %u, threads %u or sessions %u is out of range",
                       out->n_ctx, out->n_batch, out->n_threads, *n_sessions);
    if (out->n_batch > out->n_ctx * (uint64_t)*n_sessions)
        out->n_batch = out->n_ctx * *n_sessions; /* no step could be larger */
    if (out->n_logits > out->n_batch) out->n_logits = out->n_batch;
    if (in->kv_tokens != 0 && in->kv_tokens < out->n_ctx)
        return ll_fail(err, LL_ERR_ARGUMENT,
                       "a KV pool of %u tokens, expected at least the context of %u", in->kv_tokens,
                       out->n_ctx);
    uint64_t n_blocks = (uint64_t)session_blocks_for(out->n_ctx) * *n_sessions;
    if (in->kv_tokens == 0 && n_blocks > UINT32_MAX / (2 * MAX_GROUPS))
        return ll_fail(err, LL_ERR_ARGUMENT, "%u sessions of %u positions are too many",
                       *n_sessions, out->n_ctx);
    return true;
}

/* The most blocks of a layer group that a session holds: what a step's rows see, wherever in a
 * block that begins. */
static uint32_t count_blocks(const plan *p, uint32_t g, const device_options *o) {
    uint32_t all = session_blocks_for(o->n_ctx);
    uint32_t n_positions = group_most_seen(&p->groups[g], o->n_batch, o->n_ctx);
    uint32_t most = (n_positions + BLOCK_POSITIONS - 2) / BLOCK_POSITIONS + 1;
    return most < all ? most : all;
}

/* A group's blocks for all sessions. Those of layers with a window are never more than the others:
 * whoever holds one holds the others' block of the same tokens too. */
static uint32_t count_pool_blocks(const plan *p, uint32_t g, const device_options *o,
                                  uint32_t n_sessions, uint32_t kv_tokens) {
    uint64_t all = (uint64_t)n_sessions * count_blocks(p, g, o);
    uint32_t room = session_blocks_for(kv_tokens);
    bool is_smaller = kv_tokens != 0 && (room < all || p->groups[g].window == 0);
    return is_smaller ? room : (uint32_t)all;
}

static bool resolve(plan *p, const model *m, const ll_engine_options *in, device_options *out,
                    uint32_t *n_sessions, ll_error *err) {
    if (!resolve_options(m, in, out, n_sessions, err) || !plan_open(p, m, err)) return false;
    for (uint32_t g = 0; g < p->n_groups; g++)
        out->n_blocks[g] = count_pool_blocks(p, g, out, *n_sessions, in->kv_tokens);
    return true;
}

static size_t tables_bytes(const plan *p, const device_options *o, uint32_t n_sessions) {
    size_t per_row = sizeof(int32_t) + 2 * sizeof(uint32_t) + sizeof(segment);
    size_t n_bytes = p->n_steps * sizeof(step) + o->n_batch * per_row;
    for (uint32_t g = 0; g < p->n_groups; g++) n_bytes += kv_pool_bytes(o->n_blocks[g]);
    n_bytes += kv_index_bytes(o->n_blocks, p->n_groups);
    return n_bytes + n_sessions * session_bytes(p, o->n_ctx);
}

bool engine_plan_memory(const model *m, const ll_engine_options *options, ll_memory *out,
                        ll_error *err) {
    device_options resolved;
    uint32_t n_sessions;
    plan p;
    const device_kind *kind = device_find(options->device, err);
    if (kind == NULL || !resolve(&p, m, options, &resolved, &n_sessions, err)) return false;
    *out = (ll_memory){
        .weight_bytes = m->weight_bytes, .n_ctx = resolved.n_ctx, .n_threads = resolved.n_threads};
    bool ok = kind->plan_memory(&p, &resolved, out, err);
    out->tables_bytes = tables_bytes(&p, &resolved, n_sessions) + draw_scratch_bytes(m, &resolved);
    plan_close(&p);
    return ok;
}

ll_engine *engine_open(const model *m, const ll_engine_options *options, ll_error *err) {
    ll_engine *e = calloc(1, sizeof *e);
    if (e == NULL) {
        ll_fail(err, LL_ERR_MEMORY, "no memory for an engine");
        return NULL;
    }
    e->kind = device_find(options->device, err);
    atomic_init(&e->cancel, false);
    bool ok = e->kind != NULL &&
              resolve(&e->plan, m, options, &e->options, &e->n_sessions_most, err) &&
              kv_index_open(&e->index, e->options.n_blocks, e->plan.n_groups, err);
    for (uint32_t g = 0; ok && g < e->plan.n_groups; g++) {
        e->blocks_most[g] = count_blocks(&e->plan, g, &e->options);
        ok = kv_pool_open(&e->pools[g], e->options.n_blocks[g], err);
    }
    if (ok) {
        size_t n = e->options.n_batch;
        e->ids = malloc(n * sizeof *e->ids);
        e->positions = malloc(n * sizeof *e->positions);
        e->kept = malloc(n * sizeof *e->kept);
        e->segments = malloc(n * sizeof *e->segments);
        ok = e->ids != NULL && e->positions != NULL && e->kept != NULL && e->segments != NULL;
        if (!ok) ll_fail(err, LL_ERR_MEMORY, "no memory for batches of %zu rows", n);
    }
    if (ok && draw_open(e, err)) e->device = e->kind->open(&e->plan, &e->options, err);
    if (e->device == NULL) {
        ll_engine_close(e);
        return NULL;
    }
    e->options.kernels = e->kind->kernels(e->device);
    (void)snprintf(e->arithmetic, sizeof e->arithmetic, "%s-%d", e->kind->arithmetic(e->device),
                   LL_ARITHMETIC);
    return e;
}

void ll_engine_close(ll_engine *e) {
    if (e == NULL) return;
    if (e->device != NULL) e->kind->close(e->device);
    for (uint32_t g = 0; g < MAX_GROUPS; g++) kv_pool_close(&e->pools[g]);
    kv_index_close(&e->index);
    free(e->ids);
    free(e->positions);
    free(e->kept);
    free(e->segments);
    draw_close(e);
    plan_close(&e->plan);
    free(e);
}

void ll_engine_measure(const ll_engine *e, ll_memory *out) {
    *out = (ll_memory){0};
    e->kind->measure_memory(e->device, out);
}

const char *ll_engine_device(const ll_engine *e) { return e->kind->name; }
const char *ll_engine_kernels(const ll_engine *e) { return e->options.kernels; }
const char *ll_engine_arithmetic(const ll_engine *e) { return e->arithmetic; }
const char *ll_engine_kv_k(const ll_engine *e) { return kv_names[e->options.kv_k]; }
const char *ll_engine_kv_v(const ll_engine *e) { return kv_names[e->options.kv_v]; }
uint32_t ll_engine_n_threads(const ll_engine *e) { return e->options.n_threads; }
uint32_t ll_engine_n_ctx(const ll_engine *e) { return e->options.n_ctx; }
uint32_t ll_engine_n_batch(const ll_engine *e) { return e->options.n_batch; }

bool ll_engine_gives_back(const ll_engine *e) {
    for (uint32_t g = 0; g < e->plan.n_groups; g++)
        if (e->blocks_most[g] < session_blocks_for(e->options.n_ctx)) return true;
    return false;
}

static bool check_row(const ll_engine *e, const ll_row *row, uint32_t n_kept, ll_error *err) {
    uint32_t n_vocab = e->plan.model->n_vocab;
    if (row->session == NULL || row->session->engine != e)
        return ll_fail(err, LL_ERR_ARGUMENT, "a row's session belongs to another engine");
    if (row->id < 0 || (uint32_t)row->id >= n_vocab)
        return ll_fail(err, LL_ERR_ARGUMENT, "token %d is outside the vocabulary of %u", row->id,
                       n_vocab);
    if (row->logits && n_kept >= e->options.n_logits)
        return ll_fail(err, LL_ERR_ARGUMENT, "the engine keeps the logits of %u rows a step",
                       e->options.n_logits);
    return true;
}

/* Checks a step's rows, lists the sessions they belong to, and makes room for all of them. */
static bool reserve_rows(ll_engine *e, const ll_row *rows, size_t n_rows, ll_session **first,
                         ll_error *err) {
    uint32_t n_kept = 0;
    for (size_t i = 0; i < n_rows; i++) {
        if (!check_row(e, &rows[i], n_kept, err)) return false;
        ll_session *s = rows[i].session;
        n_kept += rows[i].logits;
        if (s->n_pending++ > 0) continue;
        s->next_pending = *first;
        *first = s;
    }
    for (ll_session *s = *first; s != NULL; s = s->next_pending)
        if (!session_check(s, err)) return false;
    return session_reserve(*first, err);
}

static void build_batch(ll_engine *e, const ll_row *rows, ll_session *first, batch *b) {
    for (ll_session *s = first; s != NULL; s = s->next_pending) s->n_pending = 0;
    for (uint32_t i = 0; i < b->n_rows; i++) {
        ll_session *s = rows[i].session;
        uint32_t position = s->n_tokens + s->n_pending++;
        s->ids[position] = rows[i].id;
        e->ids[i] = rows[i].id;
        e->positions[i] = position;
        if (rows[i].logits) e->kept[b->n_kept++] = i;
        if (i > 0 && rows[i - 1].session == s) {
            e->segments[b->n_segments - 1].n_rows++;
            continue;
        }
        segment *g = &e->segments[b->n_segments++];
        *g = (segment){.first_row = i, .n_rows = 1, .first_position = position};
        for (uint32_t k = 0; k < e->plan.n_groups; k++) g->tables[k] = s->tables[k].blocks;
    }
}

bool ll_engine_step(ll_engine *e, const ll_row *rows, size_t n_rows, ll_error *err) {
    if (n_rows < 1 || n_rows > e->options.n_batch)
        return ll_fail(err, LL_ERR_ARGUMENT, "a step of %zu rows, expected 1 to %u", n_rows,
                       e->options.n_batch);
    batch b = {.ids = e->ids,
               .positions = e->positions,
               .n_rows = (uint32_t)n_rows,
               .segments = e->segments,
               .kept = e->kept,
               .cancel = &e->cancel,
               .poll = e->poll,
               .poll_arg = e->poll_arg};
    ll_session *first = NULL;
    bool has_room = reserve_rows(e, rows, n_rows, &first, err);
    if (has_room) build_batch(e, rows, first, &b);
    bool ok = has_room && e->kind->run(e->device, &b, err);
    atomic_store(&e->cancel, false);
    if (has_room) e->n_kept = ok ? b.n_kept : 0;
    for (ll_session *s = first; s != NULL; s = s->next_pending) {
        if (ok) session_commit(s);
        s->n_pending = 0;
        if (has_room && !ok) (void)ll_session_truncate(s, s->n_tokens); /* what was reserved */
    }
    return ok;
}

const float *ll_engine_logits(const ll_engine *e, size_t *n_kept) {
    *n_kept = e->n_kept;
    return e->kind->logits(e->device);
}

void ll_engine_cancel(ll_engine *e) { atomic_store(&e->cancel, true); }

void ll_engine_set_poll(ll_engine *e, ll_poll *poll, void *arg) {
    e->poll = poll;
    e->poll_arg = arg;
}

bool ll_engine_get_work(const ll_engine *e, const ll_span *spans, size_t n_spans, ll_work *out,
                        ll_error *err) {
    uint32_t n_rows = 0, n_kept = 0, n_ctx = e->options.n_ctx;
    for (size_t i = 0; i < n_spans; i++) {
        const ll_span *s = &spans[i];
        if (s->first_position > n_ctx || s->n_rows > n_ctx - s->first_position ||
            s->n_logits > s->n_rows)
            return ll_fail(err, LL_ERR_ARGUMENT,
                           "%u rows at position %u with %u logits, in a context of %u", s->n_rows,
                           s->first_position, s->n_logits, n_ctx);
        n_rows += spans[i].n_rows;
        n_kept += spans[i].n_logits;
    }
    *out = (ll_work){0};
    for (size_t i = 0; i < e->plan.n_steps; i++) {
        const step *s = &e->plan.steps[i];
        work_add_weights(&e->plan, s, n_rows, n_kept, out);
        for (size_t j = 0; j < n_spans; j++)
            work_add_attention(&e->plan, s, &spans[j], e->options.kv_k, e->options.kv_v, out);
    }
    return true;
}

bool ll_engine_set_profile(ll_engine *e, bool on, ll_error *err) {
    if (e->kind->set_profile == NULL)
        return ll_fail(err, LL_ERR_UNSUPPORTED, "the device \"%s\" does not time its phases",
                       e->kind->name);
    return e->kind->set_profile(e->device, on, err);
}

const ll_phase_time *ll_engine_get_profile(const ll_engine *e, size_t *n_phases) {
    *n_phases = 0;
    return e->kind->get_profile == NULL ? NULL : e->kind->get_profile(e->device, n_phases);
}

bool ll_engine_set_importance(ll_engine *e, bool on, ll_error *err) {
    if (e->kind->set_importance == NULL)
        return ll_fail(err, LL_ERR_UNSUPPORTED, "the device \"%s\" does not collect importance",
                       e->kind->name);
    return e->kind->set_importance(e->device, on, err);
}

const ll_importance *ll_engine_get_importance(const ll_engine *e, size_t *n) {
    *n = 0;
    return e->kind->get_importance == NULL ? NULL : e->kind->get_importance(e->device, n);
}
