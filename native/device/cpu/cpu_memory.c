/* cpu_memory: where everything of the device lies. One walk lays the scratch out; the memory plan
 * runs it without memory, the allocator with, so the two cannot differ.
 */
#include <stdlib.h>
#include <string.h>

#include "base/system.h"
#include "device/cpu/cpu.h"
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
        for (int j = 0; j < 3 && s->kind != STEP_EMBED; j++) {
            if (s->w[j] == NO_WEIGHT) continue;
            const weight *w = &p->model->weights[s->w[j]];
            if (quant_table[w->type].acts == kind)
                most = max_size(most, acts_bytes(kind, w->n, n_batch));
        }
    }
    return most;
}

static size_t widest_row(const model *m) {
    size_t most = max_size(m->dim, m->ffn_dim);
    return max_size(most, (size_t)m->n_heads * m->head_dim);
}

static uint32_t n_chunks(const device_options *o) {
    return (o->n_ctx + BLOCK_POSITIONS - 1) / BLOCK_POSITIONS;
}

static void lay_out(cpu *d, arena *a) {
    const plan *p = d->plan;
    const model *m = d->model;
    const device_options *o = &d->options;
    size_t shared_dim = 0;
    for (int i = X_RESIDUAL + 1; i < N_BUFFERS; i++)
        shared_dim = max_size(shared_dim, p->buffer_dim[i]);
    d->buffers[X_RESIDUAL] = take(a, p->buffer_dim[X_RESIDUAL] * o->n_batch * sizeof(float));
    float *shared = take(a, shared_dim * o->n_batch * sizeof(float));
    for (int i = X_RESIDUAL + 1; i < N_BUFFERS; i++) d->buffers[i] = shared;
    for (int k = 0; k < ACTS_KIND_COUNT; k++)
        d->acts_memory[k] = take(a, widest_acts(p, (acts_kind)k, o->n_batch));
    for (int i = 0; i < N_ROPES; i++)
        d->rope[i] = m->ropes[i].frequency == NULL
                         ? NULL
                         : take(a, (size_t)m->n_rot * o->n_batch * sizeof(float));
    /* Fewer rows than this leave threads without an attention task of their own. */
    d->n_split_rows = (o->n_threads - 1) / m->n_kv_heads + (o->n_threads > 1);
    if (d->n_split_rows > o->n_batch) d->n_split_rows = o->n_batch;
    size_t state_floats = (size_t)m->head_dim + 2;
    d->states =
        take(a, d->n_split_rows * (size_t)m->n_heads * n_chunks(o) * state_floats * sizeof(float));
    d->n_peaks = strips_count(m->n_vocab);
    d->peaks = take(a, (size_t)o->n_logits * d->n_peaks * sizeof(float));
    d->every_row = take(a, o->n_batch * sizeof(uint32_t));
    d->sets[ROWS_ALL].tiles = take(a, o->n_batch * sizeof(tile));
    d->sets[ROWS_KEPT].tiles = take(a, o->n_logits * sizeof(tile));
    d->tile_floats = (size_t)o->n_batch * max_size(MATMUL_ROWS, m->head_dim);
    d->tile_floats = max_size(d->tile_floats, cpu_attend_extent(d).tile_floats);
    d->thread_bytes = KERNELS_SCRATCH_BYTES;
    d->thread_bytes += (d->tile_floats + widest_row(m)) * sizeof(float);
    d->thread_bytes = whole_pages(d->thread_bytes);
    d->thread_memory = take_pages(a, d->thread_bytes * o->n_threads);
}

/* What a thread touches of its memory at most, whichever tasks it comes to run: the panel for the
 * most demanding kernel, the tile for the largest task, and the row, which holds a normed input. */
static size_t touched_thread_bytes(const cpu *d) {
    extent most = cpu_attend_extent(d);
    most.panel_bytes = max_size(most.panel_bytes, cpu_append_scratch(d));
    for (size_t i = 0; i < d->plan->n_steps; i++) {
        const step *s = &d->plan->steps[i];
        if (s->kind == STEP_EMBED || s->kind == STEP_ATTEND) continue;
        extent e = cpu_matmul_extent(d, s);
        most.panel_bytes = max_size(most.panel_bytes, e.panel_bytes);
        most.tile_floats = max_size(most.tile_floats, e.tile_floats);
    }
    size_t row_bytes = d->model->dim * sizeof(float) + PAGE_BYTES; /* it begins within a page */
    return whole_pages(most.panel_bytes) + whole_pages(most.tile_floats * sizeof(float)) +
           whole_pages(row_bytes);
}

/* Bytes of the keys, or of the values, of one layer's heads in a block. */
static size_t layer_bytes(const cpu *d, kv_type type) {
    return d->model->n_kv_heads * BLOCK_POSITIONS * kv_position_bytes(type, d->model->head_dim);
}

static size_t kv_bytes(cpu *d) {
    size_t total = 0, both = layer_bytes(d, d->options.kv_k) + layer_bytes(d, d->options.kv_v);
    for (uint32_t g = 0; g < d->plan->n_groups; g++) {
        d->block_bytes[g] = d->plan->groups[g].n_layers * both;
        total += d->block_bytes[g] * d->options.n_blocks[g];
    }
    return total;
}

static size_t count_scratch(cpu *d) {
    arena counting = {0};
    lay_out(d, &counting);
    return counting.used;
}

bool cpu_plan_memory(const plan *p, const device_options *options, ll_memory *out, ll_error *err) {
    cpu d = {.plan = p,
             .model = p->model,
             .kernels = cpu_find_kernels(options->kernels, err),
             .options = *options};
    if (d.kernels == NULL) return false;
    out->scratch_bytes = count_scratch(&d);
    size_t per_thread = touched_thread_bytes(&d);
    out->scratch_touched_bytes = out->scratch_bytes;
    if (per_thread < d.thread_bytes)
        out->scratch_touched_bytes -= (d.thread_bytes - per_thread) * options->n_threads;
    out->kv_bytes = kv_bytes(&d);
    for (uint32_t g = 0; g < p->n_groups; g++) out->block_bytes += d.block_bytes[g];
    out->logits_bytes = (uint64_t)options->n_logits * p->model->n_vocab * sizeof(float);
    out->importance_bytes = cpu_importance_bytes(p);
    return true;
}

void cpu_measure_memory(const device *opaque, ll_memory *out) {
    const cpu *d = (const cpu *)(const void *)opaque;
    out->scratch_bytes = system_resident(d->scratch, d->scratch_bytes);
    out->logits_bytes = system_resident(d->logits, d->logits_bytes);
    for (uint32_t g = 0; g < d->plan->n_groups; g++)
        out->kv_bytes += system_resident(d->kv[g], d->block_bytes[g] * d->options.n_blocks[g]);
}

bool cpu_place(cpu *d, ll_error *err) {
    const device_options *o = &d->options;
    d->scratch_bytes = count_scratch(d);
    d->scratch = system_reserve(d->scratch_bytes);
    d->logits_bytes = (size_t)o->n_logits * d->model->n_vocab * sizeof(float);
    d->logits = system_reserve(d->logits_bytes);
    if (d->scratch == NULL || d->logits == NULL)
        return ll_fail(err, LL_ERR_MEMORY, "the system refused %zu bytes of scratch",
                       d->scratch_bytes + d->logits_bytes);
    arena placing = {.base = d->scratch};
    lay_out(d, &placing);
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

void *cpu_thread_panel(const cpu *d, uint32_t thread) {
    return d->thread_memory + d->thread_bytes * thread;
}

float *cpu_thread_tile(const cpu *d, uint32_t thread) {
    return (float *)(void *)((char *)cpu_thread_panel(d, thread) + KERNELS_SCRATCH_BYTES);
}

float *cpu_thread_row(const cpu *d, uint32_t thread) {
    return cpu_thread_tile(d, thread) + d->tile_floats;
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
void *cpu_keys(const cpu *d, const step *s, uint32_t block, uint32_t kv_head) {
    size_t keys = layer_bytes(d, d->options.kv_k), values = layer_bytes(d, d->options.kv_v);
    char *start = d->kv[s->group] + d->block_bytes[s->group] * block;
    return start + s->group_layer * (keys + values) + kv_head * (keys / d->model->n_kv_heads);
}

void *cpu_values(const cpu *d, const step *s, uint32_t block, uint32_t kv_head) {
    size_t values = layer_bytes(d, d->options.kv_v);
    char *layer = cpu_keys(d, s, block, 0);
    return layer + layer_bytes(d, d->options.kv_k) + kv_head * (values / d->model->n_kv_heads);
}
