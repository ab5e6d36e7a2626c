/* cpu_profile: where the time of the runs goes, phase by phase.
 *
 * The clock is read when all threads have met at the end of a phase; the time since the last
 * meeting, waiting included, is that phase's. The phase that works carries its step's work.
 */
#include <stdlib.h>
#include <string.h>

#include "base/system.h"
#include "device/cpu/cpu_measure.h"
#include "model/work.h"

bool cpu_set_profile(device *opaque, bool on, ll_error *err) {
    cpu *d = (cpu *)(void *)opaque;
    d->profiles = false;
    if (!on) return true;
    if (d->profile == NULL) d->profile = malloc(d->n_phases * sizeof *d->profile);
    if (d->profile == NULL)
        return ll_fail(err, LL_ERR_MEMORY, "no memory for a profile of %u phases", d->n_phases);
    for (uint32_t i = 0; i < d->n_phases; i++) {
        const phase *p = &d->phases[i];
        d->profile[i] =
            (ll_phase_time){.step = p->step->name, .phase = p->kind->name, .layer = p->step->layer};
    }
    d->profiles = true;
    return true;
}

const ll_phase_time *cpu_get_profile(const device *opaque, size_t *n_phases) {
    const cpu *d = (const cpu *)(const void *)opaque;
    *n_phases = d->profile != NULL ? d->n_phases : 0;
    return d->profile;
}

void cpu_profile_begin(cpu *d) {
    if (d->profiles) d->profile_mark = system_seconds();
}

void cpu_profile_phase(cpu *d, const phase *ended) {
    if (!d->profiles) return;
    double now = system_seconds();
    d->profile[ended - d->phases].seconds += now - d->profile_mark;
    d->profile_mark = now;
}

/* A segment as the rows of a session; kept rows count as its last. */
static ll_span span_of(const batch *b, const segment *g) {
    ll_span span = {.first_position = g->first_position, .n_rows = g->n_rows};
    for (uint32_t i = 0; i < b->n_kept; i++)
        span.n_logits += b->kept[i] - g->first_row < g->n_rows; /* wraps below the segment */
    return span;
}

void cpu_profile_end(cpu *d) {
    if (!d->profiles) return;
    const batch *b = d->batch;
    for (uint32_t i = 0; i < d->n_phases; i++) {
        const phase *p = &d->phases[i];
        ll_work *work = &d->profile[i].work;
        if (p->kind->part != WORKS) continue;
        work_add_weights(d->plan, p->step, b->n_rows, b->n_kept, work);
        for (uint32_t s = 0; s < b->n_segments; s++) {
            ll_span span = span_of(b, &b->segments[s]);
            work_add_attention(d->plan, p->step, &span, d->options.kv_k, d->options.kv_v, work);
        }
    }
}
