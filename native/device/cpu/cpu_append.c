/* cpu_append: keys and values enter the blocks of their sessions, rounded to the type they are
 * stored in. A position is rounded alone, so nothing depends on what comes with it.
 */
#include "device/cpu/cpu_append.h"

#include <string.h>

#include "device/cpu/cpu_memory.h"

/* Positions of one block that are appended together: x [n][dim] to slot, slot + 1 ... of the chunk.
 */
typedef struct run {
    void *chunk;
    uint32_t slot, n;
    size_t dim; /* channels of a key or a value */
    const float *x;
} run;

typedef void put_run(const cpu *d, kv_type type, const run *r, void *scratch);

/* ---- codes: of one head's channels, row by row, to their places ------------------------------ */

static void put_half_keys(const cpu *d, const run *r, uint16_t *half) {
    size_t n = r->dim;
    uint16_t *to = (uint16_t *)r->chunk + r->slot;
    d->kernels->to_f16(r->x, half, r->n * n);
    for (size_t c = 0; c < n; c++)
        for (uint32_t j = 0; j < r->n; j++) to[c * BLOCK_POSITIONS + j] = half[j * n + c];
}

/* The run as columns of codes with a scale a block; the last block is filled up with zeros. Returns
 * the scales in F16, [n_blocks][r->n]. */
static uint16_t *round_run(const cpu *d, kv_type type, const run *r, acts *a, char *scratch) {
    size_t n = r->dim, n_blocks = kv_n_blocks(n), n_padded = n_blocks * KV_BLOCK_DIM;
    float *row = (float *)(void *)scratch;
    uint16_t *scales = (uint16_t *)(void *)(row + n_padded);
    acts_place(a, ACTS_Q8_32, n_padded, r->n, scales + n_blocks * BLOCK_POSITIONS);
    memset(row, 0, n_padded * sizeof *row);
    for (uint32_t j = 0; j < r->n; j++) {
        memcpy(row, r->x + j * n, n * sizeof *row);
        if (kv_rotates(type)) kv_rotate(row, n);
        if (type == KV_Q8_0) d->kernels->quantize(a, j, row);
        for (size_t b = 0; b < n_blocks && type == KV_Q4_0; b++) {
            size_t block = acts_block(a, b, j);
            a->d[block] = kv_round_q4(row + b * KV_BLOCK_DIM, a->q + block * KV_BLOCK_DIM);
        }
    }
    d->kernels->to_f16(a->d, scales, n_blocks * r->n);
    return scales;
}

static uint8_t pack(int8_t low, int8_t high) { return (uint8_t)((low + 8) | (high + 8) << 4); }

static void put_rounded_keys(const cpu *d, kv_type type, const run *r, char *scratch) {
    acts a;
    size_t n = r->dim;
    const uint16_t *scales = round_run(d, type, r, &a, scratch);
    uint16_t *to_scales = kv_scales(type, r->chunk, n) + r->slot;
    for (size_t b = 0; b < kv_n_blocks(n); b++)
        memcpy(to_scales + b * BLOCK_POSITIONS, scales + b * r->n, r->n * sizeof *scales);
    uint8_t *to = (uint8_t *)r->chunk + r->slot;
    for (size_t c = 0; c < n; c += type == KV_Q8_0 ? 1 : 2, to += BLOCK_POSITIONS) {
        const int8_t *from = a.q + acts_block(&a, c / KV_BLOCK_DIM, 0) * KV_BLOCK_DIM;
        from += c % KV_BLOCK_DIM;
        for (uint32_t j = 0; j < r->n; j++, from += KV_BLOCK_DIM)
            to[j] = type == KV_Q8_0 ? (uint8_t)from[0] : pack(from[0], from[1]);
    }
}

static void put_rounded_values(const cpu *d, kv_type type, const run *r, char *scratch) {
    acts a;
    size_t n = r->dim, n_blocks = kv_n_blocks(n);
    const uint16_t *scales = round_run(d, type, r, &a, scratch);
    uint16_t *to_scales = kv_scales(type, r->chunk, n) + r->slot * n_blocks;
    size_t row_bytes = type == KV_Q8_0 ? n : n / 2;
    for (uint32_t j = 0; j < r->n; j++) {
        uint8_t *to = (uint8_t *)r->chunk + (r->slot + j) * row_bytes;
        for (size_t b = 0; b < n_blocks; b++) to_scales[j * n_blocks + b] = scales[b * r->n + j];
        for (size_t c = 0; c < n; c += type == KV_Q8_0 ? 1 : 2) {
            const int8_t *from = a.q + acts_block(&a, c / KV_BLOCK_DIM, j) * KV_BLOCK_DIM;
            from += c % KV_BLOCK_DIM;
            *to++ = type == KV_Q8_0 ? (uint8_t)from[0] : pack(from[0], from[1]);
        }
    }
}

static void put_keys(const cpu *d, kv_type type, const run *r, void *scratch) {
    if (type == KV_F16)
        put_half_keys(d, r, scratch);
    else
        put_rounded_keys(d, type, r, scratch);
}

static void put_values(const cpu *d, kv_type type, const run *r, void *scratch) {
    size_t n = r->dim;
    if (type == KV_F16)
        d->kernels->to_f16(r->x, (uint16_t *)r->chunk + r->slot * n, r->n * n);
    else
        put_rounded_values(d, type, r, scratch);
}

size_t cpu_append_scratch(const cpu *d, const step *s) {
    const layer_group *g = cpu_group_of(d, s);
    const device_options *o = &d->options;
    uint32_t n = o->n_batch < BLOCK_POSITIONS ? o->n_batch : BLOCK_POSITIONS;
    size_t n_blocks = kv_n_blocks(g->k_dim > g->v_dim ? g->k_dim : g->v_dim),
           n_padded = n_blocks * KV_BLOCK_DIM;
    size_t half_bytes = n * n_padded * sizeof(uint16_t);
    if (o->kv_k == KV_F16 && o->kv_v == KV_F16) return half_bytes;
    size_t n_bytes = n_padded * sizeof(float) + n_blocks * BLOCK_POSITIONS * sizeof(uint16_t);
    n_bytes += acts_bytes(ACTS_Q8_32, n_padded, n);
    return n_bytes > half_bytes ? n_bytes : half_bytes;
}

/* ---- runs: as many consecutive positions as lie in one block --------------------------------- */

typedef void *find_chunk(const cpu *d, const step *s, uint32_t block, uint32_t kv_head);

static void append(cpu *d, const step *s, uint32_t kv_head, const float *y, size_t dim,
                   kv_type type, find_chunk *find, put_run *put, void *scratch) {
    for (uint32_t i = 0; i < d->batch->n_segments; i++) {
        const segment *g = &d->batch->segments[i];
        for (uint32_t j = 0, n_run; j < g->n_rows; j += n_run) {
            uint32_t position = g->first_position + j, slot = position % BLOCK_POSITIONS;
            uint32_t block = g->tables[s->group][position / BLOCK_POSITIONS];
            n_run = BLOCK_POSITIONS - slot;
            if (n_run > g->n_rows - j) n_run = g->n_rows - j;
            run r = {find(d, s, block, kv_head), slot, n_run, dim, y + (g->first_row + j) * dim};
            put(d, type, &r, scratch);
        }
    }
}

void cpu_append_keys(cpu *d, const step *s, uint32_t kv_head, const float *y, uint32_t thread) {
    append(d, s, kv_head, y, cpu_group_of(d, s)->k_dim, d->options.kv_k, cpu_keys, put_keys,
           cpu_thread_panel(d, thread));
}

void cpu_append_values(cpu *d, const step *s, uint32_t kv_head, const float *y, uint32_t thread) {
    append(d, s, kv_head, y, cpu_group_of(d, s)->v_dim, d->options.kv_v, cpu_values, put_values,
           cpu_thread_panel(d, thread));
}
