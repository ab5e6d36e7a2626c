/* rope: every scaling kind becomes one table of frequencies (radians per position, in double) and
 * one magnitude, so the engine rotates by position * frequency[i] and knows no kinds.
 *
 *   none, linear   frequency_i = base^(-2i/n) / factor_i / factor
 *   llama3         the same, its factors stored in the file as rope_freqs.weight
 *   yarn           a ramp over i between the interpolated and the plain frequency; magnitude
 *                  1 + 0.1 ln(factor) (Peng et al. 2023, "YaRN")
 */
#include "model/rope.h"

#include <stdlib.h>

#include "base/exact.h"

/* The pair index at which a frequency turns `beta` times within the original context. */
static double yarn_corner(const rope_scaling *s, double base, double n_rot, double beta) {
    const double two_pi = 6.283185307179586;
    return n_rot * exact_log(s->original_context / (two_pi * beta)) / (2 * exact_log(base));
}

static double floor_of(double x) {
    double whole = (double)(int64_t)x;
    return whole > x ? whole - 1 : whole;
}

bool rope_open(rope *r, uint32_t n_rot, double base, const rope_scaling *s, const float *factors,
               ll_error *err) {
    uint32_t n_pairs = n_rot / 2;
    if (!(base > 1 && base < 1e12))
        return ll_fail(err, LL_ERR_FORMAT, "RoPE base %g, expected above 1 and below 1e12", base);
    r->frequency = malloc(n_pairs * sizeof(double));
    if (r->frequency == NULL) return ll_fail(err, LL_ERR_MEMORY, "no memory for RoPE frequencies");
    double magnitude = s->magnitude;
    if (s->is_yarn) magnitude *= 1.0 + 0.1 * exact_log(s->factor);
    r->magnitude = (float)magnitude;
    double low = 0, high = 0;
    if (s->is_yarn) {
        low = floor_of(yarn_corner(s, base, n_rot, s->beta_fast));
        high = -floor_of(-yarn_corner(s, base, n_rot, s->beta_slow));
        if (low < 0) low = 0;
        if (high > n_rot - 1) high = n_rot - 1;
        if (high - low < 0.001) high = low + 0.001;
    }
    for (uint32_t i = 0; i < n_pairs; i++) {
        double plain = exact_pow(base, -2.0 * i / n_rot);
        if (factors != NULL) plain /= (double)factors[i];
        double interpolated = plain / s->factor;
        double keep = 0; /* share of the plain frequency */
        if (s->is_yarn) {
            double ramp = (i - low) / (high - low);
            keep = (1 - (ramp < 0 ? 0 : ramp > 1 ? 1 : ramp)) * s->extrapolation;
        }
        r->frequency[i] = interpolated * (1 - keep) + plain * keep;
    }
    return true;
}

void rope_close(rope *r) {
    free(r->frequency);
    *r = (rope){0};
}
