/* cpu_importance: sums of squares of what the matrices are multiplied with, column by column.
 *
 * When a phase that prepares inputs has ended, whichever thread ended it walks the rows in their
 * order and adds their squares, which are exact in double, to one sum a column. So the order of
 * the additions is that of the tokens and nothing else: threads, chunks and kernels change no bit.
 * Inputs are kept nowhere as floats, so the norm is computed again; a matrix costs far more.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "device/cpu/cpu_measure.h"
#include "device/cpu/cpu_memory.h"

enum { MAX_WEIGHTS = 3 }; /* of a step, sharing its input */

/* Fills d->importance with empty sums; d->importance_sums is theirs. */
static void list_weights(cpu *d) {
    double *sums = d->importance_sums;
    d->n_importance = 0;
    for (uint32_t i = 0; i < d->n_phases; i++) {
        const step *s = d->phases[i].step;
        if (d->phases[i].kind->part != PREPARES) continue;
        uint32_t n = d->model->weights[s->w[0]].n;
        for (int j = 0; j < MAX_WEIGHTS; j++) {
            if (s->w[j] == NO_WEIGHT) continue;
            ll_importance *of = &d->importance[d->n_importance++];
            *of = (ll_importance){.n = n, .sums = sums};
            model_name_weight(s->w[j], of->name, sizeof of->name);
        }
        sums += n;
    }
}

/* Columns of all inputs, and the matrices that they are multiplied with. */
static size_t count_columns(const plan *p, size_t *n_matrices) {
    size_t n_columns = 0;
    *n_matrices = 0;
    for (size_t i = 0; i < p->n_steps; i++) {
        const step *s = &p->steps[i];
        if (s->w[0] == NO_WEIGHT) continue;
        n_columns += p->model->weights[s->w[0]].n;
        for (int j = 0; j < MAX_WEIGHTS; j++) *n_matrices += s->w[j] != NO_WEIGHT;
    }
    return n_columns;
}

size_t cpu_importance_bytes(const plan *p) {
    size_t n_matrices, n_columns = count_columns(p, &n_matrices);
    return n_matrices * sizeof(ll_importance) + n_columns * sizeof(double);
}

bool cpu_set_importance(device *opaque, bool on, ll_error *err) {
    cpu *d = (cpu *)(void *)opaque;
    d->collects = false;
    if (!on) return true;
    size_t n_matrices, n_columns = count_columns(d->plan, &n_matrices);
    if (d->importance == NULL) d->importance = malloc(n_matrices * sizeof *d->importance);
    if (d->importance_sums == NULL) d->importance_sums = malloc(n_columns * sizeof(double));
    if (d->importance == NULL || d->importance_sums == NULL)
        return ll_fail(err, LL_ERR_MEMORY, "no memory for the importance of %zu columns",
                       n_columns);
    memset(d->importance_sums, 0, n_columns * sizeof(double));
    list_weights(d);
    assert(d->n_importance == n_matrices);
    d->collects = true;
    return true;
}

const ll_importance *cpu_get_importance(const device *opaque, size_t *n) {
    const cpu *d = (const cpu *)(const void *)opaque;
    *n = d->n_importance;
    return d->importance;
}

static const float *input_row(const cpu *d, const step *s, const row_set *set, uint32_t i,
                              uint32_t n) {
    const float *x = cpu_buffer_row(d, s->in, set, i);
    if (s->norm == NO_WEIGHT) return x;
    float *normed = cpu_thread_row(d, 0); /* no thread has a task between two phases */
    d->kernels->rms_norm(x, d->model->weights[s->norm].data, d->model->eps, normed, n);
    return normed;
}

void cpu_collect_importance(cpu *d, const phase *ended) {
    if (!d->collects || ended->kind->part != PREPARES) return;
    const step *s = ended->step;
    const row_set *set = cpu_input_rows_of(d, s);
    uint32_t n = d->model->weights[s->w[0]].n;
    double *sums = d->importance_sums;
    size_t first = 0;
    for (const phase *p = d->phases; p < ended; p++) {
        if (p->kind->part != PREPARES) continue;
        sums += d->model->weights[p->step->w[0]].n;
        for (int j = 0; j < MAX_WEIGHTS; j++) first += p->step->w[j] != NO_WEIGHT;
    }
    for (uint32_t i = 0; i < set->n; i++) {
        const float *x = input_row(d, s, set, i, n);
        for (uint32_t c = 0; c < n; c++) sums[c] += (double)x[c] * (double)x[c];
    }
    for (int j = 0; j < MAX_WEIGHTS; j++)
        if (s->w[j] != NO_WEIGHT) d->importance[first++].n_rows += set->n;
}
