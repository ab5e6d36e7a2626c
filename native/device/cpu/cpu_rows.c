/* cpu_rows: what happens to each row of a batch alone: embedding, RoPE tables, norms, rounding. */
#include <math.h>

#include "base/exact.h"
#include "device/cpu/cpu_memory.h"
#include "device/cpu/cpu_phases.h"

enum { ROWS_PER_TASK = 8 };

static task_cut cut_rows(const row_set *set) {
    return (task_cut){.n_tasks = (set->n + ROWS_PER_TASK - 1) / ROWS_PER_TASK};
}

task_cut cpu_cut_input_rows(const cpu *d, const phase *p) {
    return cut_rows(cpu_input_rows_of(d, p->step));
}

task_cut cpu_cut_rows(const cpu *d, const phase *p) { return cut_rows(cpu_rows_of(d, p->step)); }

static uint32_t last_row(uint32_t task, uint32_t n_rows) {
    uint32_t end = (task + 1) * ROWS_PER_TASK;
    return end < n_rows ? end : n_rows;
}

static const float *vector(const cpu *d, uint32_t id) {
    return id == NO_WEIGHT ? NULL : d->model->weights[id].data;
}

static void fill_rope(const cpu *d, uint32_t row) {
    uint32_t n_pairs = d->model->n_rot / 2;
    for (int i = 0; i < N_ROPES; i++) {
        const rope *r = &d->model->ropes[i];
        if (r->frequency == NULL) continue;
        float *table = d->rope[i] + (size_t)row * d->model->n_rot; /* [cosines][sines] */
        for (uint32_t j = 0; j < n_pairs; j++) {
            double sine, cosine;
            exact_sincos(d->batch->positions[row] * r->frequency[j], &sine, &cosine);
            table[j] = (float)(cosine * (double)r->magnitude);
            table[n_pairs + j] = (float)(sine * (double)r->magnitude);
        }
    }
}

void cpu_run_embed(cpu *d, const phase *p, uint32_t task, uint32_t thread) {
    (void)thread;
    const weight *w = &d->model->weights[p->step->table];
    for (uint32_t row = task * ROWS_PER_TASK; row < last_row(task, d->batch->n_rows); row++) {
        float *x = d->buffers[p->step->out] + (size_t)row * w->n;
        size_t id = (size_t)d->batch->ids[row];
        quant_table[w->type].dequantize((const char *)w->data + id * w->row_bytes, x, w->n);
        if (d->model->embedding_scale != 1.0f)
            for (uint32_t i = 0; i < w->n; i++) x[i] *= d->model->embedding_scale;
        fill_rope(d, row);
    }
}

/* Norms x where the step has a norm, then rounds it once for each kind of activations its matrices
 * take. */
static void prepare_row(cpu *d, const step *s, const float *x, uint32_t column, uint32_t n_columns,
                        uint32_t thread) {
    const model *m = d->model;
    size_t n = m->weights[s->w[0]].n;
    if (isnan(d->kernels->largest(x, n))) cpu_note_bad(d, s->layer);
    if (s->norm != NO_WEIGHT) {
        float *normed = cpu_thread_row(d, thread);
        d->kernels->rms_norm(x, vector(d, s->norm), m->eps, normed, n);
        x = normed;
    }
    unsigned done = 0;
    for (int i = 0; i < 3; i++) {
        if (s->w[i] == NO_WEIGHT) continue;
        acts_kind kind = quant_table[m->weights[s->w[i]].type].acts;
        if ((done & (1u << kind)) != 0) continue;
        done |= 1u << kind;
        acts a;
        acts_place(&a, kind, n, n_columns, d->acts_memory[kind]);
        d->kernels->quantize(&a, column, x);
    }
}

void cpu_run_prepare(cpu *d, const phase *p, uint32_t task, uint32_t thread) {
    const step *s = p->step;
    const row_set *set = cpu_input_rows_of(d, s);
    for (uint32_t i = task * ROWS_PER_TASK; i < last_row(task, set->n); i++)
        prepare_row(d, s, cpu_buffer_row(d, s->in, set, i), i, set->n, thread);
}

/* residual += norm(output), for families that norm what a block returns. */
void cpu_run_join(cpu *d, const phase *p, uint32_t task, uint32_t thread) {
    const step *s = p->step;
    const row_set *set = cpu_rows_of(d, s);
    size_t n = d->model->dim;
    float *normed = cpu_thread_row(d, thread);
    for (uint32_t i = task * ROWS_PER_TASK; i < last_row(task, set->n); i++) {
        const float *y = cpu_buffer_row(d, X_OUTPUT, set, i);
        if (isnan(d->kernels->largest(y, n))) cpu_note_bad(d, s->layer);
        d->kernels->rms_norm(y, vector(d, s->post_norm), d->model->eps, normed, n);
        d->kernels->add(normed, cpu_buffer_row(d, s->out, set, i), n);
    }
}
