/* strips: the copies that biases and penalties need, the peaks, and what is found by them alone. */
#include "sample/strips.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/exact.h"
#include "kernels/kernels.h"

/* [n_vocab] changed logits, [n_vocab] counts, [n] peaks, [n] whether a strip is changed. */
size_t strips_scratch_bytes(uint32_t n_vocab) {
    size_t n = strips_count(n_vocab);
    return n_vocab * (sizeof(float) + sizeof(int32_t)) + n * (sizeof(float) + sizeof(uint8_t));
}

/* ---- biases and penalties ------------------------------------------------------------------ */

typedef struct changes {
    const float *logits;
    uint32_t n_vocab;
    float *changed;
    uint8_t *are_changed;
} changes;

/* Where to write the logit of a token: in our copy of its strip, which is made the first time,
 * since the engine's own logits are read-only. */
static float *writable_logit(const changes *c, int32_t id) {
    uint32_t strip = (uint32_t)id / STRIP_LOGITS, first = strip * STRIP_LOGITS;
    if (!c->are_changed[strip]) {
        uint32_t left = c->n_vocab - first;
        memcpy(c->changed + first, c->logits + first,
               (left < STRIP_LOGITS ? left : STRIP_LOGITS) * sizeof(float));
        c->are_changed[strip] = 1;
    }
    return &c->changed[id];
}

static bool add_biases(const changes *c, const ll_sampling *s, ll_error *err) {
    for (size_t i = 0; i < s->n_biases; i++) {
        ll_logit_bias b = s->biases[i];
        if (b.id < 0 || (uint32_t)b.id >= c->n_vocab || !(b.bias <= FLT_MAX))
            return ll_fail(err, LL_ERR_ARGUMENT,
                           "a logit bias of %g for token %d, expected a number or -inf for a token "
                           "under %u",
                           (double)b.bias, b.id, c->n_vocab);
        *writable_logit(c, b.id) += b.bias;
    }
    return true;
}

static float penalized(const ll_sampling *s, float logit, int32_t count) {
    logit = logit > 0 ? logit / s->repeat_penalty : logit * s->repeat_penalty;
    return logit - ((float)count * s->frequency_penalty + s->presence_penalty);
}

/* Of `counts` [n_vocab] only the entries of recent tokens are touched. */
static bool apply_penalties(const changes *c, const ll_sampling *s, const int32_t *recent,
                            size_t n_recent, int32_t *counts, ll_error *err) {
    for (size_t i = 0; i < n_recent; i++) {
        if (recent[i] < 0 || (uint32_t)recent[i] >= c->n_vocab)
            return ll_fail(err, LL_ERR_ARGUMENT, "recent token %d, expected an id under %u",
                           recent[i], c->n_vocab);
        counts[recent[i]] = 0;
    }
    for (size_t i = 0; i < n_recent; i++) counts[recent[i]]++;
    for (size_t i = 0; i < n_recent; i++) {
        int32_t *count = &counts[recent[i]];
        if (*count == 0) continue; /* done already */
        float *logit = writable_logit(c, recent[i]);
        *logit = penalized(s, *logit, *count);
        *count = 0;
    }
    return true;
}

/* ---- peaks --------------------------------------------------------------------------------- */

/* Banned tokens have a logit of -infinity; no other that is not finite may pass. */
static bool find_peak(const strips *t, uint32_t strip, const kernels *k, float *peak,
                      ll_error *err) {
    uint32_t n;
    const float *x = strips_get(t, strip, &n);
    *peak = k->largest(x, n);
    if (!isnan(*peak)) return true;
    *peak = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        if (!(x[i] <= FLT_MAX))
            return ll_fail(err, LL_ERR_NUMERIC, "the logit of token %u is %g",
                           strip * STRIP_LOGITS + i, (double)x[i]);
        if (x[i] > *peak) *peak = x[i] + 0.0f;
    }
    return true;
}

bool strips_open(strips *out, const ll_sampling *s, const float *logits, const float *peaks,
                 uint32_t n_vocab, const int32_t *recent, size_t n_recent, void *scratch,
                 ll_error *err) {
    *out =
        (strips){.logits = logits, .peaks = peaks, .n = strips_count(n_vocab), .n_vocab = n_vocab};
    changes c = {.logits = logits, .n_vocab = n_vocab, .changed = scratch};
    int32_t *counts = (int32_t *)(void *)(c.changed + n_vocab);
    float *new_peaks = (float *)(void *)(counts + n_vocab);
    c.are_changed = (uint8_t *)(void *)(new_peaks + out->n);
    bool any_changed = s->n_biases > 0 || n_recent > 0;
    if (any_changed) {
        memset(c.are_changed, 0, out->n);
        if (!add_biases(&c, s, err) || !apply_penalties(&c, s, recent, n_recent, counts, err))
            return false;
        out->changed = c.changed;
        out->are_changed = c.are_changed;
    }
    if (peaks != NULL && !any_changed) return true;
    const kernels *k = kernels_find(NULL);
    for (uint32_t i = 0; i < out->n; i++) {
        bool known = peaks != NULL && !c.are_changed[i];
        if (known) new_peaks[i] = peaks[i];
        if (!known && !find_peak(out, i, k, &new_peaks[i], err)) return false;
    }
    out->peaks = new_peaks;
    return true;
}

/* ---- what is found by the peaks ------------------------------------------------------------ */

float strips_best(const strips *t) {
    float best = -INFINITY;
    for (uint32_t i = 0; i < t->n; i++) best = t->peaks[i] > best ? t->peaks[i] : best;
    return best;
}

int32_t strips_find(const strips *t, float value) {
    uint32_t strip = 0, i = 0, n;
    while (t->peaks[strip] != value) strip++;
    const float *x = strips_get(t, strip, &n);
    while (i + 1 < n && x[i] != value) i++;
    return (int32_t)(strip * STRIP_LOGITS + i);
}

/* Strips that lie side by side are summed in one call; those whose every weight is 0 are not. */
uint64_t strips_sum_weights(const strips *t, float best, double scale) {
    const kernels *k = kernels_find(NULL);
    const float *run = NULL;
    size_t n_run = 0;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        uint32_t n;
        const float *x = strips_get(t, i, &n);
        if (exact_weight(((double)t->peaks[i] - (double)best) * scale) == 0) continue;
        if (run == NULL || run + n_run != x) {
            if (n_run > 0) sum += k->sum_weights(run, n_run, best, scale);
            run = x;
            n_run = 0;
        }
        n_run += n;
    }
    return n_run > 0 ? sum + k->sum_weights(run, n_run, best, scale) : sum;
}
