/* fit: the scales (and offsets) with which the integer codes of eight sub-blocks come nearest.
 *
 * The error is sum of w (x - x')^2. With the codes given, the best scale is linear least squares;
 * with the scale given, the best codes are the nearest. So a fit tries a number of scales around
 * the one that just covers the values, takes for each the nearest codes and the least squares'
 * scale for those, and goes on from the best until the codes stay.
 *
 * Sums are kept in f32: a difference too small to see there is too small to matter.
 */
#ifndef LL_QUANTIZE_FIT_H
#define LL_QUANTIZE_FIT_H

#include <float.h>
#include <stdbool.h>

#include "quantize/lanes.h"

enum { FIT_REFINEMENTS = 2 };

/* x' = scale * code + offset */
typedef struct fit {
    lanes scale, offset, error;
} fit;

/* ---- codes from 0 to `most`, with an offset ------------------------------------------------- */

/* Sums over a sub-block, for codes l: w, w x, w x^2. */
typedef struct fit_moments {
    lanes w, wx, wxx;
} fit_moments;

LANES_INLINE fit_moments fit_sum(const lanes_problem *p) {
    fit_moments m = {lanes_all(0), lanes_all(0), lanes_all(0)};
    for (int i = 0; i < p->n; i++) {
        lanes wx = p->w[i] * p->x[i];
        m.w += p->w[i];
        m.wx += wx;
        m.wxx += wx * p->x[i];
    }
    return m;
}

/* The least squares' scale and offset for the codes nearest to (x - offset) / scale. An offset is
 * never above zero where `below_zero`. */
LANES_INLINE fit fit_affine_once(const lanes_problem *p, const fit_moments *m, float most,
                                 bool below_zero, lanes inverse, lanes offset) {
    const lanes zero = lanes_all(0);
    lanes sl = zero, sll = zero, sxl = zero;
    for (int i = 0; i < p->n; i++) {
        lanes l = lanes_code((p->x[i] - offset) * inverse, 0, most), wl = p->w[i] * l;
        sl += wl;
        sll += wl * l;
        sxl += wl * p->x[i];
    }
    lanes determinant = m->w * sll - sl * sl;
    lanes_mask is_flat = determinant <= lanes_all(0); /* all codes are the same */
    lanes by = lanes_inverse(lanes_select(is_flat, zero, determinant));
    fit f;
    f.scale = (m->w * sxl - m->wx * sl) * by;
    f.offset = (sll * m->wx - sl * sxl) * by;
    lanes_mask is_bad = is_flat | (f.scale <= zero);
    if (below_zero) {
        lanes_mask is_above = (f.offset > zero) | is_bad;
        f.scale = lanes_select(is_above, sxl * lanes_inverse(sll), f.scale);
        f.offset = lanes_select(is_above, zero, f.offset);
    } else {
        f.scale = lanes_select(is_bad, zero, f.scale);
        f.offset = lanes_select(is_bad, m->wx * lanes_inverse(m->w), f.offset);
    }
    f.scale = lanes_max(f.scale, zero);
    lanes cross = f.scale * sxl + f.offset * m->wx;
    lanes square = f.scale * (f.scale * sll + 2 * f.offset * sl) + f.offset * f.offset * m->w;
    f.error = m->wxx - 2 * cross + square;
    return f;
}

LANES_INLINE void fit_keep(fit *best, fit f) {
    lanes_mask is_better = f.error < best->error;
    best->scale = lanes_select(is_better, f.scale, best->scale);
    best->offset = lanes_select(is_better, f.offset, best->offset);
    best->error = lanes_select(is_better, f.error, best->error);
}

/* Tries `n_widths` widths, and each with the low end moved in by some parts of a code. */
LANES_INLINE fit fit_affine(const lanes_problem *p, float most, bool below_zero, int n_widths,
                            int n_ends) {
    const lanes zero = lanes_all(0);
    fit_moments m = fit_sum(p);
    lanes low = p->x[0], high = p->x[0];
    for (int i = 1; i < p->n; i++) {
        low = lanes_min(low, p->x[i]);
        high = lanes_max(high, p->x[i]);
    }
    if (below_zero) low = lanes_min(low, zero);
    lanes width = high - low, inverse = lanes_inverse(width);
    fit best = {zero, below_zero ? zero : m.wx * lanes_inverse(m.w), lanes_all(FLT_MAX)};
    for (int e = 0; e < n_ends; e++) {
        lanes offset = low + width * lanes_all(0.6f * (float)e / (float)n_ends / most);
        for (int s = 0; s < n_widths; s++) {
            /* from a code less than would cover the values to almost one more */
            float codes = most - 1 + 1.9f * ((float)s + 0.5f) / (float)n_widths;
            fit_keep(&best, fit_affine_once(p, &m, most, below_zero, codes * inverse, offset));
        }
    }
    for (int i = 0; i < FIT_REFINEMENTS; i++) {
        lanes by = lanes_inverse(best.scale);
        fit_keep(&best, fit_affine_once(p, &m, most, below_zero, by, best.offset));
    }
    return best;
}

/* ---- codes around zero, without an offset ---------------------------------------------------- */

/* The values that codes stand for: whole numbers from -most to most - 1, or those of a table. */
typedef enum coder { CODES_WHOLE, CODES_IQ4 } coder;

/* The values of IQ4's table between which the nearest changes, and the table. */
/* clang-format off */
#define FIT_IQ4_STEPS(X)                                                                           \
    X(-115.5f, -104) X(-93.5f, -83) X(-74, -65) X(-57, -49) X(-42, -35) X(-28.5f, -22)             \
    X(-16, -10) X(-4.5f, 1) X(7, 13) X(19, 25) X(31.5f, 38) X(45.5f, 53) X(61, 69) X(79, 89)       \
    X(101, 113)
/* clang-format on */
enum { FIT_IQ4_FIRST = -127 };

/* The nearest value a code stands for. */
LANES_INLINE lanes fit_nearest(coder c, float most, lanes x) {
    if (c == CODES_WHOLE) return lanes_code(x, -most, most - 1);
    lanes y = lanes_all(FIT_IQ4_FIRST);
#define X(from, value) y = lanes_select(x > lanes_all(from), lanes_all(value), y);
    FIT_IQ4_STEPS(X)
#undef X
    return y;
}

/* The least squares' scale for the values nearest to x * inverse. */
LANES_INLINE fit fit_scale_once(coder c, const lanes_problem *p, float most, lanes inverse) {
    const lanes zero = lanes_all(0);
    lanes sll = zero, sxl = zero, sxx = zero;
    for (int i = 0; i < p->n; i++) {
        lanes l = fit_nearest(c, most, p->x[i] * inverse), wx = p->w[i] * p->x[i];
        sll += p->w[i] * l * l;
        sxl += wx * l;
        sxx += wx * p->x[i];
    }
    fit f = {.scale = sxl * lanes_inverse(sll), .offset = zero};
    f.error = sxx - f.scale * sxl;
    return f;
}

/* Tries scales of both signs, as the codes reach further on one side. */
LANES_INLINE fit fit_scale(coder c, const lanes_problem *p, float most, int n_widths) {
    const lanes zero = lanes_all(0);
    lanes largest = lanes_abs(p->x[0]);
    for (int i = 1; i < p->n; i++) largest = lanes_max(largest, lanes_abs(p->x[i]));
    lanes inverse = lanes_inverse(largest);
    fit best = {zero, zero, lanes_all(FLT_MAX)};
    for (int s = 0; s < n_widths; s++) {
        float at = ((float)s + 0.5f) / (float)n_widths;
        float reach = c == CODES_WHOLE ? most - 1.2f + 2 * at : 96 + 44 * at;
        fit_keep(&best, fit_scale_once(c, p, most, reach * inverse));
        fit_keep(&best, fit_scale_once(c, p, most, -reach * inverse));
    }
    for (int i = 0; i < FIT_REFINEMENTS; i++)
        fit_keep(&best, fit_scale_once(c, p, most, lanes_inverse(best.scale)));
    return best;
}

#endif
