/* strips: a row of logits as the sampler reads it: in strips of STRIP_LOGITS, each with its
 * largest logit, the peak, so that whoever looks for large logits skips whole strips.
 *
 * Biases and penalties change few logits: their strips are copied, changed, and given new peaks;
 * the others stay where the engine left them.
 */
#ifndef LL_SAMPLE_STRIPS_H
#define LL_SAMPLE_STRIPS_H

#include "localllm.h"

enum { STRIP_LOGITS = 32 };

/* Of a row of logits; the last one may be shorter. */
static inline uint32_t strips_count(uint32_t n_vocab) {
    return (n_vocab + STRIP_LOGITS - 1) / STRIP_LOGITS;
}

typedef struct strips {
    const float *logits;        /* [n_vocab] */
    const float *changed;       /* [n_vocab] of which the changed strips are filled */
    const uint8_t *are_changed; /* [n] */
    const float *peaks;         /* [n]; no zero is negative */
    uint32_t n, n_vocab;
} strips;

size_t strips_scratch_bytes(uint32_t n_vocab);

/* `peaks` may be NULL: then they are found here. Fails where a logit is NaN or infinity, or a bias
 * or a recent token is out of range. */
bool strips_open(strips *out, const ll_sampling *s, const float *logits, const float *peaks,
                 uint32_t n_vocab, const int32_t *recent, size_t n_recent, void *scratch,
                 ll_error *err);

/* The logits of strip i, and how many they are. */
static inline const float *strips_get(const strips *t, uint32_t i, uint32_t *n) {
    uint32_t first = i * STRIP_LOGITS, left = t->n_vocab - first;
    *n = left < STRIP_LOGITS ? left : STRIP_LOGITS;
    return (t->are_changed != NULL && t->are_changed[i] ? t->changed : t->logits) + first;
}

float strips_best(const strips *t); /* -infinity: no logit is finite */

/* The lowest id whose logit is `value`, which one of the peaks is. */
int32_t strips_find(const strips *t, float value);

/* The sum of exact_weight((logit - best) * scale) over all logits. */
uint64_t strips_sum_weights(const strips *t, float best, double scale);

#endif
