/* cpu_matmul: the phases that multiply the rows of a batch by weights. A task is a range of weight
 * rows times all columns, so a panel is unpacked once; its epilogue (bias, q/k-norm, RoPE, KV
 * append, activation, residual) works on what the task has just computed.
 */
#include <assert.h>
#include <math.h>
#include <stdint.h>

#include "device/cpu/cpu_append.h"
#include "device/cpu/cpu_memory.h"
#include "device/cpu/cpu_phases.h"
#include "sample/strips.h"

typedef struct range {
    uint32_t first, n;
} range;

enum {
    MATMUL_ROWS = 128, /* most weight rows of a task of many columns */
    FEWEST_ROWS = 32,
    TASKS_PER_THREAD = 6,
};
static_assert(FEWEST_ROWS % STRIP_LOGITS == 0, "the logits of a task are whole strips");

/* Rows of which the thread with the most tasks has more than its part, over all threads. */
static uint32_t uneven_rows(uint32_t n_rows, uint32_t rows, uint32_t n_threads) {
    uint32_t n_tasks = (n_rows + rows - 1) / rows;
    return (n_tasks + n_threads - 1) / n_threads * rows * n_threads - n_rows;
}

/* A few columns: long runs of memory, tasks that end soon enough for another thread to even out
 * what disturbs one, and as nearly as possible the same number of them for each thread. */
static uint32_t rows_for_few(const weight *w, uint32_t most, uint32_t n_threads) {
    enum { TASK_BYTES = 256 << 10, N_TRIES = 8 };
    uint32_t short_enough = (uint32_t)(TASK_BYTES / w->row_bytes);
    if (most > short_enough) most = short_enough;
    most = most < FEWEST_ROWS ? FEWEST_ROWS : most / FEWEST_ROWS * FEWEST_ROWS;
    uint32_t part = (w->n_rows + n_threads - 1) / n_threads;
    uint32_t fewest = (part + most - 1) / most, best = most, least_uneven = UINT32_MAX;
    if (fewest < TASKS_PER_THREAD) fewest = TASKS_PER_THREAD;
    for (uint32_t n = fewest; n < fewest + N_TRIES && least_uneven > 0; n++) {
        uint32_t rows = ((part + n - 1) / n + FEWEST_ROWS - 1) / FEWEST_ROWS * FEWEST_ROWS;
        uint32_t uneven = uneven_rows(w->n_rows, rows, n_threads);
        if (uneven < least_uneven) best = rows;
        if (uneven < least_uneven) least_uneven = uneven;
    }
    return best;
}

/* Many columns: a panel of MATMUL_ROWS, or of a half or a quarter where that gives the threads more
 * equal parts or where these kernels would notice a cancel too late. */
static uint32_t rows_for_many(const cpu *d, const weight *w, uint32_t n_columns) {
    uint32_t n_threads = d->options.n_threads, rows = MATMUL_ROWS;
    uint32_t least_uneven = uneven_rows(w->n_rows, FEWEST_ROWS, n_threads);
    for (; rows > FEWEST_ROWS; rows /= 2) {
        bool too_much = (size_t)w->n * n_columns * rows > d->kernels->task_macs;
        if (!too_much && uneven_rows(w->n_rows, rows, n_threads) <= least_uneven) break;
    }
    return rows;
}

enum { FEW_COLUMNS = 8 };

static uint32_t rows_per_task(const cpu *d, const weight *w, uint32_t n_columns) {
    if (n_columns > FEW_COLUMNS) return rows_for_many(d, w, n_columns);
    return rows_for_few(w, (uint32_t)(d->thread_floats / n_columns), d->options.n_threads);
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* The most rows of a task of few columns. */
static size_t most_rows_for_few(const weight *w, uint32_t n_threads) {
    size_t tasks = (size_t)TASKS_PER_THREAD * n_threads, part = (w->n_rows + tasks - 1) / tasks;
    return smaller(w->n_rows, (part + FEWEST_ROWS - 1) / FEWEST_ROWS * FEWEST_ROWS);
}

/* Rows as matmul_scratch counts them: tasks have a multiple of 8, but for the last one's. */
static size_t scratch_bytes(const cpu *d, const weight *w, size_t n_rows, size_t n_columns) {
    if (w->n_rows % 8 != 0) n_rows |= 1;
    return d->kernels->matmul_scratch(w->type, w->n, n_rows, n_columns);
}

/* Of products cut into rows of weights. Tasks of more columns have as many rows or fewer, and no
 * more than task_macs multiply-adds where that makes them have fewer. */
static scratch_need need_weights(const cpu *d, const step *s, uint32_t n_columns) {
    size_t n_few = smaller(n_columns, FEW_COLUMNS);
    scratch_need most = {.n_floats_reserved = (size_t)n_columns * MATMUL_ROWS};
    for (int j = 0; j < 3 && s->w[j] != NO_WEIGHT; j++) {
        const weight *w = &d->model->weights[s->w[j]];
        size_t few_rows = most_rows_for_few(w, d->options.n_threads);
        size_t rows = smaller(w->n_rows, rows_for_many(d, w, 1));
        size_t least = smaller(rows, rows_for_many(d, w, n_columns)) * n_columns;
        size_t n_floats = smaller(rows * n_columns, larger(least, d->kernels->task_macs / w->n));
        most.n_floats = larger(most.n_floats, larger(n_floats, few_rows * n_few));
        most.panel_bytes = larger(most.panel_bytes, scratch_bytes(d, w, few_rows, n_few));
        most.panel_bytes = larger(most.panel_bytes, scratch_bytes(d, w, rows, n_columns));
    }
    return most;
}

scratch_need cpu_need_gate_up(const cpu *d, const step *s) {
    return need_weights(d, s, d->options.n_batch);
}

scratch_need cpu_need_project(const cpu *d, const step *s) {
    scratch_need need = need_weights(d, s, d->options.n_batch);
    if (s->post_norm != NO_WEIGHT) need.n_floats = 0; /* the sums go where they belong */
    return need;
}

scratch_need cpu_need_logits(const cpu *d, const step *s) {
    scratch_need need = need_weights(d, s, d->options.n_logits);
    need.n_floats = 0; /* likewise */
    return need;
}

task_cut cpu_cut_weights(const cpu *d, const phase *p) {
    uint32_t n_columns = cpu_rows_of(d, p->step)->n;
    if (n_columns == 0) return (task_cut){0};
    const weight *w = &d->model->weights[p->step->w[0]];
    uint32_t rows = rows_per_task(d, w, n_columns);
    return (task_cut){.n_tasks = (w->n_rows + rows - 1) / rows, .n_rows = rows};
}

static range task_rows(const cpu *d, const phase *p, uint32_t task) {
    uint32_t n_rows = d->model->weights[p->step->w[0]].n_rows;
    range r = {.first = task * p->cut.n_rows, .n = p->cut.n_rows};
    if (r.first + r.n > n_rows) r.n = n_rows - r.first;
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
    kernels_matmul(d->kernels, w->type)(&(product){
        .rows = (const uint8_t *)w->data + r.first * w->row_bytes,
        .row_bytes = w->row_bytes,
        .n_rows = r.n,
        .a = &a,
        .col0 = columns.first,
        .n_cols = columns.n,
        .y = y,
        .y_stride = y_stride,
        .scratch = cpu_thread_panel(d, thread),
    });
}

static void multiply(const cpu *d, const step *s, uint32_t id, range r, float *y, size_t y_stride,
                     uint32_t thread) {
    uint32_t n = cpu_rows_of(d, s)->n;
    multiply_columns(d, id, r, n, (range){0, n}, y, y_stride, thread);
}

/* ---- queries, keys and values: a task is a head ---------------------------------------------- */

scratch_need cpu_need_heads(const cpu *d, const step *s) {
    const layer_group *g = cpu_group_of(d, s);
    const size_t n_columns = d->options.n_batch, rows[] = {g->k_dim, g->k_dim, g->v_dim};
    size_t n_floats = larger(g->k_dim, g->v_dim) * n_columns; /* of keys or values */
    scratch_need need = {.panel_bytes = cpu_append_scratch(d, s),
                         .n_floats = n_floats,
                         .n_floats_reserved = n_floats};
    for (int j = 0; j < 3; j++) {
        size_t n_bytes = scratch_bytes(d, &d->model->weights[s->w[j]], rows[j], n_columns);
        need.panel_bytes = larger(need.panel_bytes, n_bytes);
    }
    return need;
}

/* Keys and values first: they are wanted of all rows, queries perhaps of none. */
task_cut cpu_cut_heads(const cpu *d, const phase *p) {
    uint32_t n_query_heads = cpu_rows_of(d, p->step)->n > 0 ? d->model->n_heads : 0;
    return (task_cut){.n_tasks = 2 * cpu_group_of(d, p->step)->n_kv_heads + n_query_heads};
}

/* Turns the pairs (x[i], x[i + n_pairs]) by angles whose cosines and sines are given. */
static void rotate_halves(float *x, const float *restrict cosines, const float *restrict sines,
                          size_t n_pairs) {
    float *restrict a = x, *restrict b = x + n_pairs;
    for (size_t i = 0; i < n_pairs; i++) {
        float a0 = a[i], b0 = b[i];
        a[i] = a0 * cosines[i] - b0 * sines[i];
        b[i] = a0 * sines[i] + b0 * cosines[i];
    }
}

/* The same for the pairs (x[2i], x[2i + 1]). */
static void rotate_neighbours(float *restrict x, const float *restrict cosines,
                              const float *restrict sines, size_t n_pairs) {
    for (size_t i = 0; i < n_pairs; i++) {
        float a0 = x[2 * i], b0 = x[2 * i + 1];
        x[2 * i] = a0 * cosines[i] - b0 * sines[i];
        x[2 * i + 1] = a0 * sines[i] + b0 * cosines[i];
    }
}

/* Bias, q/k-norm and RoPE of one head, n channels of each row; which: 0 queries, 1 keys, 2 values.
 */
static void finish_head(const cpu *d, const step *s, const row_set *set, int which, uint32_t head,
                        size_t n, float *y, size_t y_stride) {
    const model *m = d->model;
    const weight *w = m->weights;
    void (*rotate)(float *, const float *, const float *, size_t) =
        m->family->pairing == ROPE_HALVES ? rotate_halves : rotate_neighbours;
    for (uint32_t i = 0; i < set->n; i++) {
        float *x = y + i * y_stride;
        if (s->bias[which] != NO_WEIGHT)
            d->kernels->add((const float *)w[s->bias[which]].data + head * n, x, n);
        if (which == 2) continue;
        if (s->head_norm[which] != NO_WEIGHT)
            d->kernels->rms_norm(x, w[s->head_norm[which]].data, m->eps, x, n);
        const float *table = d->rope[s->rope] + (size_t)set->rows[i] * m->n_rot;
        rotate(x, table, table + m->n_rot / 2, m->n_rot / 2);
    }
}

/* The rows a step wants of queries lie in runs of columns prepared for all rows. */
static void multiply_queries(const cpu *d, const step *s, range r, float *y, size_t y_stride,
                             uint32_t thread) {
    const row_set *set = cpu_rows_of(d, s);
    uint32_t n_prepared = cpu_input_rows_of(d, s)->n;
    for (uint32_t i = 0, n = 1; i < set->n; i += n) {
        for (n = 1; i + n < set->n && set->rows[i + n] == set->rows[i] + n;) n++;
        multiply_columns(d, s->w[0], r, n_prepared, (range){set->rows[i], n}, y + i * y_stride,
                         y_stride, thread);
    }
}

static void run_query_head(const cpu *d, const step *s, uint32_t head, uint32_t thread) {
    uint32_t dim = cpu_group_of(d, s)->k_dim;
    size_t stride = d->plan->buffer_dim[s->out];
    float *y = d->buffers[s->out] + (size_t)head * dim;
    multiply_queries(d, s, (range){head * dim, dim}, y, stride, thread);
    finish_head(d, s, cpu_rows_of(d, s), 0, head, dim, y, stride);
}

/* which: 1 keys, 2 values. */
static void run_kv_head(cpu *d, const step *s, int which, uint32_t kv_head, uint32_t thread) {
    const layer_group *g = cpu_group_of(d, s);
    const row_set *every = cpu_input_rows_of(d, s);
    uint32_t dim = which == 1 ? g->k_dim : g->v_dim;
    float *y = cpu_thread_floats(d, thread); /* [n_rows, dim] */
    range rows = {kv_head * dim, dim};
    multiply_columns(d, s->w[which], rows, every->n, (range){0, every->n}, y, dim, thread);
    finish_head(d, s, every, which, kv_head, dim, y, dim);
    (which == 1 ? cpu_append_keys : cpu_append_values)(d, s, kv_head, y, thread);
}

void cpu_run_heads(cpu *d, const phase *p, uint32_t task, uint32_t thread) {
    uint32_t n_kv_heads = cpu_group_of(d, p->step)->n_kv_heads;
    if (task >= 2 * n_kv_heads)
        run_query_head(d, p->step, task - 2 * n_kv_heads, thread);
    else
        run_kv_head(d, p->step, task < n_kv_heads ? 1 : 2, task % n_kv_heads, thread);
}

/* ---- the others: a task is a range of weight rows -------------------------------------------- */

void cpu_run_project(cpu *d, const phase *p, uint32_t task, uint32_t thread) {
    const step *s = p->step;
    const row_set *set = cpu_rows_of(d, s);
    size_t dim = d->model->dim;
    range r = task_rows(d, p, task);
    if (s->post_norm != NO_WEIGHT) {
        multiply(d, s, s->w[0], r, d->buffers[X_OUTPUT] + r.first, dim, thread);
        return;
    }
    float *y = cpu_thread_floats(d, thread);
    multiply(d, s, s->w[0], r, y, r.n, thread);
    for (uint32_t i = 0; i < set->n; i++)
        d->kernels->add(y + (size_t)i * r.n, cpu_buffer_row(d, s->out, set, i) + r.first, r.n);
}

void cpu_run_gate_up(cpu *d, const phase *p, uint32_t task, uint32_t thread) {
    const step *s = p->step;
    size_t width = d->plan->buffer_dim[s->out];
    range r = task_rows(d, p, task);
    float *gate = d->buffers[s->out] + r.first, *up = cpu_thread_floats(d, thread);
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
    range r = task_rows(d, p, task);
    multiply(d, s, s->w[0], r, d->logits + r.first, n_vocab, thread);
    for (uint32_t i = 0; i < cpu_rows_of(d, s)->n; i++) {
        const float *y = d->logits + i * n_vocab;
        for (uint32_t j = r.first; j < r.first + r.n; j += STRIP_LOGITS) {
            uint32_t left = r.first + r.n - j;
            float peak = d->kernels->largest(y + j, left < STRIP_LOGITS ? left : STRIP_LOGITS);
            if (isnan(peak)) cpu_note_bad(d, s->layer);
            d->peaks[(size_t)i * d->n_peaks + j / STRIP_LOGITS] = peak;
        }
    }
}
