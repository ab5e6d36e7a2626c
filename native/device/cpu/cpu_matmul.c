/* cpu_matmul: the phases that multiply the rows of a batch by weights. A task is a range of weight
 * rows times all columns, so a panel is unpacked once; its epilogue (bias, q/k-norm, RoPE, KV
 * append, activation, residual) works on what the task has just computed.
 */
#include <assert.h>
#include <math.h>
#include <stdint.h>

#include "device/cpu/cpu.h"

typedef struct range {
    uint32_t first, n;
} range;

/* Weight rows of a task. Small batch: long runs of memory, yet enough tasks that the threads finish
 * together, and outputs that fit the thread's tile. Large batch: at most TILE_ROWS, and so much
 * work that even the scalar kernels return for a cancel within 200 ms. */
static uint32_t tile_rows(const cpu *d, const weight *w, uint32_t n_columns) {
    enum { SMALL_BATCH = 8, TASKS_PER_THREAD = 6, TASK_MACS = 16 << 20, FEWEST_ROWS = 32 };
    static_assert(FEWEST_ROWS % LL_PEAK_LOGITS == 0, "a task's logits are whole groups");
    if (n_columns > SMALL_BATCH) {
        size_t rows = TASK_MACS / ((size_t)w->n * n_columns) / FEWEST_ROWS * FEWEST_ROWS;
        return rows < FEWEST_ROWS ? FEWEST_ROWS : rows > TILE_ROWS ? TILE_ROWS : (uint32_t)rows;
    }
    uint32_t rows = w->n_rows / (d->options.n_threads * TASKS_PER_THREAD);
    rows = (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    uint32_t most = (uint32_t)(d->tile_floats / n_columns) / TILE_ROWS * TILE_ROWS;
    return rows < TILE_ROWS ? TILE_ROWS : rows > most ? most : rows;
}

uint32_t cpu_count_tiles(const cpu *d, const phase *p) {
    uint32_t n_columns = cpu_rows_of(d, p->step)->n;
    if (n_columns == 0) return 0;
    const weight *w = &d->model->weights[p->step->w[0]];
    uint32_t rows = tile_rows(d, w, n_columns);
    return (w->n_rows + rows - 1) / rows;
}

static range tile_range(const cpu *d, const step *s, uint32_t task) {
    const weight *w = &d->model->weights[s->w[0]];
    uint32_t rows = tile_rows(d, w, cpu_rows_of(d, s)->n);
    range r = {.first = task * rows, .n = rows};
    if (r.first + r.n > w->n_rows) r.n = w->n_rows - r.first;
    return r;
}

/* y[c * y_stride + i] = row (r.first + i) of weight `id` with column columns.first + c, where
 * n_prepared columns lie ready. */
static void multiply_columns(const cpu *d, uint32_t id, range r, uint32_t n_prepared, range columns,
                             float *y, size_t y_stride, uint32_t thread) {
    const weight *w = &d->model->weights[id];
    acts a;
    acts_kind kind = quant_table[w->type].acts;
    acts_place(&a, kind, w->n, n_prepared, d->acts_memory[kind]);
    kernels_matmul(d->kernels, w->type)((const char *)w->data + r.first * w->row_bytes,
                                        w->row_bytes, r.n, &a, columns.first, columns.n, y,
                                        y_stride, cpu_thread_panel(d, thread));
}

static void multiply(const cpu *d, const step *s, uint32_t id, range r, float *y, size_t y_stride,
                     uint32_t thread) {
    uint32_t n = cpu_rows_of(d, s)->n;
    multiply_columns(d, id, r, n, (range){0, n}, y, y_stride, thread);
}

/* ---- queries, keys and values: a task is a head ---------------------------------------------- */

/* Keys and values first: they are wanted of all rows, queries perhaps of none. */
uint32_t cpu_count_heads(const cpu *d, const phase *p) {
    uint32_t n_query_heads = cpu_rows_of(d, p->step)->n > 0 ? d->model->n_heads : 0;
    return 2 * d->model->n_kv_heads + n_query_heads;
}

static void rotate_head(const model *m, const float *table, float *x) {
    uint32_t n_pairs = m->n_rot / 2;
    bool halves = m->family->pairing == ROPE_HALVES;
    uint32_t apart = halves ? n_pairs : 1, next = halves ? 1 : 2;
    for (uint32_t i = 0; i < n_pairs; i++) {
        float *a = &x[i * next], *b = a + apart;
        float cosine = table[i], sine = table[n_pairs + i];
        float a0 = *a, b0 = *b;
        *a = a0 * cosine - b0 * sine;
        *b = a0 * sine + b0 * cosine;
    }
}

/* Bias, q/k-norm and RoPE of one head of each row; which: 0 queries, 1 keys, 2 values. */
static void finish_head(const cpu *d, const step *s, const row_set *set, int which, uint32_t head,
                        float *y, size_t y_stride) {
    const model *m = d->model;
    size_t n = m->head_dim;
    const weight *w = m->weights;
    for (uint32_t i = 0; i < set->n; i++) {
        float *x = y + i * y_stride;
        if (s->bias[which] != NO_WEIGHT)
            d->kernels->add((const float *)w[s->bias[which]].data + head * n, x, n);
        if (which == 2) continue;
        if (s->head_norm[which] != NO_WEIGHT)
            d->kernels->rms_norm(x, w[s->head_norm[which]].data, m->eps, x, n);
        rotate_head(m, d->rope[s->rope] + (size_t)set->rows[i] * m->n_rot, x);
    }
}

/* Rounds one head of every row to F16 and appends it to its session's blocks. */
static void append_head(cpu *d, const step *s, bool is_value, uint32_t kv_head, const float *y,
                        uint32_t thread) {
    size_t n = d->model->head_dim;
    uint16_t *half = (uint16_t *)(void *)cpu_thread_row(d, thread);
    for (uint32_t i = 0; i < d->batch->n_segments; i++) {
        const segment *g = &d->batch->segments[i];
        for (uint32_t j = 0; j < g->n_rows; j++) {
            uint32_t position = g->first_position + j, slot = position % BLOCK_POSITIONS;
            uint32_t block = g->tables[s->group][position / BLOCK_POSITIONS];
            const float *x = y + (g->first_row + j) * n;
            if (is_value) {
                d->kernels->to_f16(x, cpu_values(d, s, block, kv_head) + slot * n, n);
                continue;
            }
            uint16_t *keys = cpu_keys(d, s, block, kv_head);
            d->kernels->to_f16(x, half, n);
            for (size_t c = 0; c < n; c++) keys[c * BLOCK_POSITIONS + slot] = half[c];
        }
    }
}

/* The rows a step wants of queries lie in runs of columns prepared for all rows. */
static void multiply_queries(const cpu *d, const step *s, range r, float *y, size_t y_stride,
                             uint32_t thread) {
    const row_set *set = cpu_rows_of(d, s);
    uint32_t n_prepared = d->sets[ROWS_ALL].n;
    for (uint32_t i = 0, n = 1; i < set->n; i += n) {
        for (n = 1; i + n < set->n && set->rows[i + n] == set->rows[i] + n;) n++;
        multiply_columns(d, s->w[0], r, n_prepared, (range){set->rows[i], n}, y + i * y_stride,
                         y_stride, thread);
    }
}

void cpu_run_heads(cpu *d, const phase *p, uint32_t task, uint32_t thread) {
    const step *s = p->step;
    const model *m = d->model;
    const row_set *every = &d->sets[ROWS_ALL];
    uint32_t head_dim = m->head_dim;
    if (task >= 2 * m->n_kv_heads) {
        uint32_t head = task - 2 * m->n_kv_heads;
        size_t stride = d->plan->buffer_dim[s->out];
        float *y = d->buffers[s->out] + (size_t)head * head_dim;
        multiply_queries(d, s, (range){head * head_dim, head_dim}, y, stride, thread);
        finish_head(d, s, cpu_rows_of(d, s), 0, head, y, stride);
        return;
    }
    uint32_t kv_head = task % m->n_kv_heads;
    int which = task < m->n_kv_heads ? 1 : 2;
    float *y = cpu_thread_tile(d, thread); /* [n_rows, head_dim] */
    range rows = {kv_head * head_dim, head_dim};
    multiply_columns(d, s->w[which], rows, every->n, (range){0, every->n}, y, head_dim, thread);
    finish_head(d, s, every, which, kv_head, y, head_dim);
    append_head(d, s, which == 2, kv_head, y, thread);
}

/* ---- the others: a task is a tile of weight rows --------------------------------------------- */

void cpu_run_project(cpu *d, const phase *p, uint32_t task, uint32_t thread) {
    const step *s = p->step;
    const row_set *set = cpu_rows_of(d, s);
    size_t dim = d->model->dim;
    range r = tile_range(d, s, task);
    if (s->post_norm != NO_WEIGHT) {
        multiply(d, s, s->w[0], r, d->buffers[X_OUTPUT] + r.first, dim, thread);
        return;
    }
    float *y = cpu_thread_tile(d, thread);
    multiply(d, s, s->w[0], r, y, r.n, thread);
    for (uint32_t i = 0; i < set->n; i++)
        d->kernels->add(y + (size_t)i * r.n, cpu_buffer_row(d, s->out, set, i) + r.first, r.n);
}

void cpu_run_gate_up(cpu *d, const phase *p, uint32_t task, uint32_t thread) {
    const step *s = p->step;
    size_t width = d->plan->buffer_dim[s->out];
    range r = tile_range(d, s, task);
    float *gate = d->buffers[s->out] + r.first, *up = cpu_thread_tile(d, thread);
    multiply(d, s, s->w[0], r, gate, width, thread);
    multiply(d, s, s->w[1], r, up, r.n, thread);
    bool gelu = d->model->family->act == ACTIVATION_GELU;
    void (*gated)(const float *, const float *, float *, size_t) =
        gelu ? d->kernels->gelu_mul : d->kernels->silu_mul;
    for (uint32_t i = 0; i < cpu_rows_of(d, s)->n; i++)
        gated(gate + i * width, up + (size_t)i * r.n, gate + i * width, r.n);
}

void cpu_run_logits(cpu *d, const phase *p, uint32_t task, uint32_t thread) {
    const step *s = p->step;
    size_t n_vocab = d->model->n_vocab;
    range r = tile_range(d, s, task);
    multiply(d, s, s->w[0], r, d->logits + r.first, n_vocab, thread);
    for (uint32_t i = 0; i < cpu_rows_of(d, s)->n; i++) {
        const float *y = d->logits + i * n_vocab;
        for (uint32_t j = r.first; j < r.first + r.n; j += LL_PEAK_LOGITS) {
            uint32_t left = r.first + r.n - j;
            float peak = d->kernels->largest(y + j, left < LL_PEAK_LOGITS ? left : LL_PEAK_LOGITS);
            if (isnan(peak)) cpu_note_bad(d, s->layer);
            d->peaks[(size_t)i * d->n_peaks + j / LL_PEAK_LOGITS] = peak;
        }
    }
}
