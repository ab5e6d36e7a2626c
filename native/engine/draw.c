/* draw: tokens from the kept rows of a step, several at once.
 *
 * Each thread that draws has scratch of its own and takes one draw after the other. A draw reads
 * its row, its session and its settings and nothing else, so neither the number of threads nor who
 * else draws changes its token.
 */
#include "engine/draw.h"

#include <stdlib.h>

#include "sample/sampler.h"
#include "sample/strips.h"

enum { CACHE_LINE = 64 };

/* Draws that may be made at once. */
static uint32_t count_lanes(const device_options *o) {
    return o->n_threads < o->n_logits ? o->n_threads : o->n_logits;
}

/* From one lane's scratch to the next one's. */
static size_t lane_stride(uint32_t n_vocab) {
    return (sampler_scratch_bytes(n_vocab) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

size_t draw_scratch_bytes(const model *m, const device_options *o) {
    return (count_lanes(o) - 1) * lane_stride(m->n_vocab) + sampler_scratch_bytes(m->n_vocab);
}

bool draw_open(ll_engine *e, ll_error *err) {
    size_t n_bytes = draw_scratch_bytes(e->plan.model, &e->options);
    e->draw_scratch = malloc(n_bytes);
    if (e->draw_scratch != NULL) return true;
    return ll_fail(err, LL_ERR_MEMORY, "no memory for %zu bytes that draws need", n_bytes);
}

void draw_close(ll_engine *e) { free(e->draw_scratch); }

/* ---- drawing --------------------------------------------------------------------------------- */

typedef struct draw_job {
    ll_engine *engine;
    const ll_draw *draws;
    size_t n_draws;
    int32_t *ids;               /* [n_draws] */
    _Atomic size_t next;        /* the first draw that nobody has taken */
    _Atomic size_t first_error; /* n_draws: none */
} draw_job;

static bool check_draw(const ll_engine *e, const ll_draw *d, ll_error *err) {
    if (d->session == NULL || d->session->engine != e)
        return ll_fail(err, LL_ERR_ARGUMENT, "a draw's session belongs to another engine");
    if (d->row >= e->n_kept)
        return ll_fail(err, LL_ERR_ARGUMENT, "no logits are kept for row %u, of %u", d->row,
                       e->n_kept);
    return true;
}

static bool draw_one(const draw_job *job, size_t i, uint32_t lane, ll_error *err) {
    const ll_engine *e = job->engine;
    const ll_draw *d = &job->draws[i];
    const ll_session *s = d->session;
    uint32_t n_vocab = e->plan.model->n_vocab;
    const float *logits = e->kind->logits(e->device) + (size_t)d->row * n_vocab;
    const float *peaks = e->kind->peaks(e->device) + (size_t)d->row * strips_count(n_vocab);
    return sampler_draw(d->sampling, logits, peaks, n_vocab, s->ids, s->n_tokens, s->n_tokens,
                        e->draw_scratch + lane * lane_stride(n_vocab), &job->ids[i], err);
}

static void run_lane(void *arg, uint32_t lane, uint32_t thread) {
    draw_job *job = arg;
    (void)thread;
    for (size_t i; (i = atomic_fetch_add(&job->next, 1)) < job->n_draws;) {
        if (draw_one(job, i, lane, NULL)) continue;
        size_t first = atomic_load(&job->first_error);
        while (i < first && !atomic_compare_exchange_weak(&job->first_error, &first, i)) {
        }
    }
}

bool ll_engine_sample(ll_engine *e, const ll_draw *draws, size_t n_draws, int32_t *ids,
                      ll_error *err) {
    for (size_t i = 0; i < n_draws; i++)
        if (!check_draw(e, &draws[i], err)) return false;
    if (n_draws == 0) return true;
    draw_job job = {.engine = e, .draws = draws, .n_draws = n_draws, .ids = ids};
    if (n_draws == 1) return draw_one(&job, 0, 0, err);
    atomic_init(&job.next, 0);
    atomic_init(&job.first_error, n_draws);
    uint32_t n_lanes = count_lanes(&e->options);
    if (n_draws < n_lanes) n_lanes = (uint32_t)n_draws;
    if (e->kind->run_tasks != NULL)
        e->kind->run_tasks(e->device, n_lanes, run_lane, &job);
    else
        run_lane(&job, 0, 0);
    size_t failed = atomic_load(&job.first_error);
    return failed == n_draws || draw_one(&job, failed, 0, err); /* again, to tell its error */
}
