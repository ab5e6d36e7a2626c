/* cpu_memory: where everything of the device lies. One walk lays the scratch out; the memory plan
 * runs it without memory, the allocator with, so the two cannot differ.
 */
#include "device/cpu/cpu_memory.h"

#include <stdlib.h>
#include <string.h>

#include "base/system.h"
#include "sample/strips.h"

/* Hands out 64-byte aligned pieces of one reservation; with a NULL base it only counts. */
typedef struct arena {
    char *base;
    size_t used;
} arena;

enum { PAGE_BYTES = 4096 };

static size_t whole_pages(size_t n_bytes) {
    return (n_bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

static void *take(arena *a, size_t n_bytes) {
    void *piece = a->base == NULL ? NULL : a->base + a->used;
    a->used += (n_bytes + 63) / 64 * 64;
    return piece;
}

/* The same, but with pages of its own. */
static void *take_pages(arena *a, size_t n_bytes) {
    a->used = whole_pages(a->used);
    return take(a, whole_pages(n_bytes));
}

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

/* The most bytes that one kind of activations takes in any step. */
static size_t widest_acts(const plan *p, acts_kind kind, uint32_t n_batch) {
    size_t most = 0;
    for (size_t i = 0; i < p->n_steps; i++) {
        const step *s = &p->steps[i];
        for (int j = 0; j < 3; j++) {
            if (s->w[j] == NO_WEIGHT) continue;
            const weight *w = &p->model->weights[s->w[j]];
            if (quant_table[w->type].acts == kind)
                most = max_size(most, acts_bytes(kind, w->n, n_batch));
        }
    }
    return most;
}

/* The longest input of a matrix. */
static size_t widest_input(const plan *p) {
    size_t most = 0;
    for (size_t i = 0; i < p->n_steps; i++)
        if (p->steps[i].w[0] != NO_WEIGHT)
            most = max_size(most, p->model->weights[p->steps[i].w[0]].n);
    return most;
}

static uint32_t n_chunks(const device_options *o) {
    return (o->n_ctx + BLOCK_POSITIONS - 1) / BLOCK_POSITIONS;
}

/* Whether a task of attention may leave its heads where its queries lay: both have one size. */
static bool heads_replace_queries(const plan *p) {
    for (uint32_t g = 0; g < p->n_groups; g++)
        if (p->groups[g].k_dim != p->groups[g].v_dim) return false;
    return true;
}

/* Room for the states of split attention, in whichever layer takes the most. */
static void lay_out_states(cpu *d, arena *a) {
    const plan *p = d->plan;
    const device_options *o = &d->options;
    size_t most_floats = 0;
    d->n_split_rows = 0;
    for (uint32_t g = 0; g < p->n_groups; g++) {
        /* Fewer rows than this leave threads without an attention task of their own. */
        uint32_t n = (o->n_threads - 1) / p->groups[g].n_kv_heads + (o->n_threads > 1);
        if (n > d->n_split_rows) d->n_split_rows = n;
        most_floats = max_size(most_floats, (size_t)p->groups[g].v_dim + 2);
    }
    if (d->n_split_rows > o->n_batch) d->n_split_rows = o->n_batch;
    size_t n_states = d->n_split_rows * (size_t)d->model->n_heads * n_chunks(o);
    d->states = take(a, n_states * most_floats * sizeof(float));
}

static void lay_out(cpu *d, const scratch_need *need, arena *a) {
    const plan *p = d->plan;
    const model *m = d->model;
    const device_options *o = &d->options;
    size_t shared_dim = 0;
    for (int i = X_RESIDUAL + 1; i < N_BUFFERS; i++)
        shared_dim = max_size(shared_dim, p->buffer_dim[i]);
    d->buffers[X_RESIDUAL] = take(a, p->buffer_dim[X_RESIDUAL] * o->n_batch * sizeof(float));
    float *shared = take(a, shared_dim * o->n_batch * sizeof(float));
    for (int i = X_RESIDUAL + 1; i < N_BUFFERS; i++) d->buffers[i] = shared;
    if (!heads_replace_queries(p))
        d->buffers[X_QUERY] = take(a, p->buffer_dim[X_QUERY] * o->n_batch * sizeof(float));
    for (int k = 0; k < ACTS_KIND_COUNT; k++)
        d->acts_memory[k] = take(a, widest_acts(p, (acts_kind)k, o->n_batch));
    for (int i = 0; i < N_ROPES; i++)
        d->rope[i] = m->ropes[i].frequency == NULL
                         ? NULL
                         : take(a, (size_t)m->n_rot * o->n_batch * sizeof(float));
    lay_out_states(d, a);
    d->n_peaks = strips_count(m->n_vocab);
    d->peaks = take(a, (size_t)o->n_logits * d->n_peaks * sizeof(float));
    d->every_row = take(a, o->n_batch * sizeof(uint32_t));
    d->sets[ROWS_ALL].query_runs = take(a, o->n_batch * sizeof(query_run));
    d->sets[ROWS_KEPT].query_runs = take(a, o->n_logits * sizeof(query_run));
    d->thread_floats = need->n_floats_reserved;
    d->thread_bytes = KERNELS_SCRATCH_BYTES;
    d->thread_bytes += (d->thread_floats + widest_input(p)) * sizeof(float);
    d->thread_bytes = whole_pages(d->thread_bytes);
    d->thread_memory = take_pages(a, d->thread_bytes * o->n_threads);
}

/* What a thread touches of its memory at most, whichever tasks it comes to run: the panel for the
 * most demanding kernel, the floats for the largest task, and the row, which holds a normed input.
 * The row does not begin at a page's start, so it may touch one page more than it fills. */
static size_t touched_thread_bytes(const cpu *d, const scratch_need *need) {
    size_t row_bytes = d->model->dim * sizeof(float) + PAGE_BYTES;
    return whole_pages(need->panel_bytes) + whole_pages(need->n_floats * sizeof(float)) +
           whole_pages(row_bytes);
}

/* Bytes of one head's keys, or values, of a block. */
static size_t chunk_bytes(kv_type type, uint32_t dim) {
    return BLOCK_POSITIONS * kv_position_bytes(type, dim);
}

/* Bytes of the keys and values of one layer in a block of its group. */
static size_t layer_bytes(const cpu *d, const layer_group *g) {
    return g->n_kv_heads *
           (chunk_bytes(d->options.kv_k, g->k_dim) + chunk_bytes(d->options.kv_v, g->v_dim));
}

static size_t kv_bytes(cpu *d) {
    size_t total = 0;
    for (uint32_t g = 0; g < d->plan->n_groups; g++) {
        const layer_group *of = &d->plan->groups[g];
        d->block_bytes[g] = of->n_layers * layer_bytes(d, of);
        total += d->block_bytes[g] * d->options.n_blocks[g];
    }
    return total;
}

static size_t count_scratch(cpu *d, const scratch_need *need) {
    arena counting = {0};
    lay_out(d, need, &counting);
    return counting.used;
}

void cpu_plan_bytes(cpu *d, const scratch_need *need, ll_memory *out) {
    const device_options *o = &d->options;
    out->scratch_bytes = count_scratch(d, need);
    size_t per_thread = touched_thread_bytes(d, need);
    out->scratch_touched_bytes = out->scratch_bytes;
    if (per_thread < d->thread_bytes)
        out->scratch_touched_bytes -= (d->thread_bytes - per_thread) * o->n_threads;
    out->kv_bytes = kv_bytes(d);
    for (uint32_t g = 0; g < d->plan->n_groups; g++) out->block_bytes += d->block_bytes[g];
    out->logits_bytes = (uint64_t)o->n_logits * d->model->n_vocab * sizeof(float);
}

void cpu_measure_memory(const device *opaque, ll_memory *out) {
    const cpu *d = (const cpu *)(const void *)opaque;
    out->scratch_bytes = system_resident(d->scratch, d->scratch_bytes);
    out->logits_bytes = system_resident(d->logits, d->logits_bytes);
    for (uint32_t g = 0; g < d->plan->n_groups; g++)
        out->kv_bytes += system_resident(d->kv[g], d->block_bytes[g] * d->options.n_blocks[g]);
}

bool cpu_place(cpu *d, const scratch_need *need, ll_error *err) {
    const device_options *o = &d->options;
    d->scratch_bytes = count_scratch(d, need);
    d->scratch = system_reserve(d->scratch_bytes);
    d->logits_bytes = (size_t)o->n_logits * d->model->n_vocab * sizeof(float);
    d->logits = system_reserve(d->logits_bytes);
    if (d->scratch == NULL || d->logits == NULL)
        return ll_fail(err, LL_ERR_MEMORY, "the system refused %zu bytes of scratch",
                       d->scratch_bytes + d->logits_bytes);
    arena placing = {.base = d->scratch};
    lay_out(d, need, &placing);
    for (uint32_t i = 0; i < o->n_batch; i++) d->every_row[i] = i;
    (void)kv_bytes(d);
    for (uint32_t g = 0; g < d->plan->n_groups; g++) {
        d->kv[g] = system_reserve(d->block_bytes[g] * o->n_blocks[g]);
        if (d->kv[g] == NULL)
            return ll_fail(err, LL_ERR_MEMORY, "the system refused %zu bytes for the KV cache",
                           d->block_bytes[g] * o->n_blocks[g]);
    }
    return true;
}

void cpu_release(cpu *d) {
    for (uint32_t g = 0; g < d->plan->n_groups; g++)
        system_release(d->kv[g], d->block_bytes[g] * d->options.n_blocks[g]);
    system_release(d->logits, d->logits_bytes);
    system_release(d->scratch, d->scratch_bytes);
}

float *cpu_buffer_row(const cpu *d, buffer_id buffer, const row_set *set, uint32_t i) {
    size_t row = buffer == X_RESIDUAL ? set->rows[i] : i;
    return d->buffers[buffer] + row * d->plan->buffer_dim[buffer];
}

void *cpu_thread_panel(const cpu *d, uint32_t thread) {
    return d->thread_memory + d->thread_bytes * thread;
}

float *cpu_thread_floats(const cpu *d, uint32_t thread) {
    return (float *)(void *)((char *)cpu_thread_panel(d, thread) + KERNELS_SCRATCH_BYTES);
}

float *cpu_thread_row(const cpu *d, uint32_t thread) {
    return cpu_thread_floats(d, thread) + d->thread_floats;
}

size_t cpu_block_bytes(const device *opaque, uint32_t group) {
    return ((const cpu *)(const void *)opaque)->block_bytes[group];
}

static char *block_at(const cpu *d, uint32_t group, uint32_t block) {
    return d->kv[group] + d->block_bytes[group] * block;
}

bool cpu_get_block(const device *opaque, uint32_t group, uint32_t block, void *out, ll_error *err) {
    const cpu *d = (const cpu *)(const void *)opaque;
    (void)err;
    memcpy(out, block_at(d, group, block), d->block_bytes[group]);
    return true;
}

bool cpu_put_block(device *opaque, uint32_t group, uint32_t block, const void *kv, ll_error *err) {
    const cpu *d = (const cpu *)(const void *)opaque;
    (void)err;
    memcpy(block_at(d, group, block), kv, d->block_bytes[group]);
    return true;
}

bool cpu_copy_block(device *opaque, uint32_t group, uint32_t from, uint32_t to, ll_error *err) {
    const cpu *d = (const cpu *)(const void *)opaque;
    return cpu_put_block(opaque, group, to, block_at(d, group, from), err);
}

/* A block is [layers of the group][K, then V][kv head], each a chunk of format/kv.h. */
static char *layer_of_block(const cpu *d, const step *s, uint32_t block) {
    size_t n_bytes = layer_bytes(d, cpu_group_of(d, s));
    return d->kv[s->group] + d->block_bytes[s->group] * block + s->group_layer * n_bytes;
}

void *cpu_keys(const cpu *d, const step *s, uint32_t block, uint32_t kv_head) {
    size_t n_bytes = chunk_bytes(d->options.kv_k, cpu_group_of(d, s)->k_dim);
    return layer_of_block(d, s, block) + kv_head * n_bytes;
}

void *cpu_values(const cpu *d, const step *s, uint32_t block, uint32_t kv_head) {
    const layer_group *g = cpu_group_of(d, s);
    size_t keys = g->n_kv_heads * chunk_bytes(d->options.kv_k, g->k_dim);
    return layer_of_block(d, s, block) + keys + kv_head * chunk_bytes(d->options.kv_v, g->v_dim);
}
