/* sampler: logits to an id, scalar, the same on every machine.
 *
 * The settings are LL_SAMPLING's in localllm.h. Their order: logit bias, penalties
 * (repeat, then frequency and presence), top-k, typical-p, top-p, min-p, temperature, draw.
 * Greedy (temperature 0) takes the highest logit after bias and penalties, the lowest id on a tie.
 *
 * Every step sees what the one before it left. Rank order is logit descending, then id ascending. A
 * probability is an integer weight, floor(2^40 e^(logit - best)), so that sums are exact in any
 * order; top-p and typical-p keep the fewest candidates that reach their share of the total. The
 * draw is a counter-based generator's value for (seed, position).
 */
#ifndef LL_SAMPLE_SAMPLER_H
#define LL_SAMPLE_SAMPLER_H

#include "localllm.h"

/* Uniform in [0, 1) with 53 bits, a function of its two arguments alone: Philox4x32-10 with key
 * `seed` and counter `position` (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"). */
double sampler_uniform(uint64_t seed, uint64_t position);

/* Draws the token for `position` from logits [n_vocab]; the draw depends on (seed, position)
 * alone. `peaks` are those of the row's strips (strips.h), or NULL: the token is the same, it only
 * takes a pass more. `recent` holds the latest tokens, oldest first. Scratch is supplied by the
 * caller, aligned as malloc's. Errors: ARGUMENT, NUMERIC. */
bool sampler_draw(const ll_sampling *s, const float *logits, const float *peaks, uint32_t n_vocab,
                  const int32_t *recent, size_t n_recent, uint64_t position, void *scratch,
                  int32_t *id, ll_error *err);
size_t sampler_scratch_bytes(uint32_t n_vocab);

#endif
