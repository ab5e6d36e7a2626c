/* sampler: logits to an id, scalar, the same on every machine.
 *
 * The contract is ll_sample's in localllm.h. The order of the settings: logit bias, penalties
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

#endif
