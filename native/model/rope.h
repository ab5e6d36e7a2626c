/* rope: the frequency table and magnitude of a rotary embedding, for every scaling kind. */
#ifndef LL_MODEL_ROPE_H
#define LL_MODEL_ROPE_H

#include <stdbool.h>

#include "base/error.h"

/* RoPE of a kind of layer: angle = position * frequency[i], both halves of a pair scaled by
 * magnitude. Every scaling kind (linear, llama3, yarn) is a frequency table and a magnitude. */
typedef struct rope {
    double *frequency; /* [n_rot / 2] */
    float magnitude;
} rope;

typedef struct rope_scaling {
    double factor;    /* positions are divided by it; 1: none */
    double magnitude; /* before YaRN's own */
    bool is_yarn;     /* the rest is read only then */
    double original_context;
    double beta_fast, beta_slow, extrapolation;
} rope_scaling;

/* Fills r for n_rot rotated channels. factors: [n_rot / 2] by which frequencies are divided, each
 * above 0, or NULL. Errors: FORMAT (the base is out of range), MEMORY. */
bool rope_open(rope *r, uint32_t n_rot, double base, const rope_scaling *s, const float *factors,
               ll_error *err);
void rope_close(rope *r);

#endif
