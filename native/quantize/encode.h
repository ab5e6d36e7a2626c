/* encode: float rows become blocks; one function a quant, compiled for one instruction set.
 *
 * Blocks of 32 go eight at a time, a lane each; a superblock is one or two lots of eight
 * sub-blocks. Scales are rounded as the file stores them before the codes are chosen, so no error
 * is left between the two.
 */
#include <math.h>
#include <string.h>

#include "base/exact.h"
#include "format/quant_blocks.h"
#include "quantize/encode_table.h"
#include "quantize/fit.h"

/* How many scales a fit tries: with these the error is below llama.cpp's for every format, and
 * twice as many would take off another percent for twice the time. */
enum { WIDTHS = 4, ENDS = 2, SCALES = 4 };

/* x and w of `n_lanes` sub-blocks of n values that lie one after the other; missing ones are zero.
 * w NULL: every value counts the same. */
LANES_INLINE void load(lanes_problem *p, int n, const float *x, const float *w, size_t n_lanes) {
    p->n = n;
    for (size_t i = 0; i < (size_t)n; i++) {
        p->x[i] = lanes_all(0);
        p->w[i] = lanes_all(1);
        for (size_t k = 0; k < N_LANES && k < n_lanes; k++) {
            p->x[i][k] = x[k * (size_t)n + i];
            if (w) p->w[i][k] = w[k * (size_t)n + i];
        }
    }
}

/* Every lane as its f16 rounding, whose bits are left in h. */
LANES_INLINE lanes round_f16(lanes x, uint16_t h[N_LANES]) {
    lanes y = x;
    for (int k = 0; k < N_LANES; k++) {
        h[k] = exact_f32_to_f16(x[k]);
        y[k] = exact_f16_to_f32(h[k]);
    }
    return y;
}

/* ---- floats ---------------------------------------------------------------------------------- */

static void decode_f16(const uint16_t *from, float *to, size_t n) {
    size_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(from + i))));
#endif
    for (; i < n; i++) to[i] = exact_f16_to_f32(from[i]);
}

static void encode_f32(const float *x, const float *w, size_t n_blocks, void *out) {
    (void)w;
    memcpy(out, x, n_blocks * sizeof *x);
}

static void encode_f16(const float *x, const float *w, size_t n_blocks, void *out) {
    uint16_t *y = out;
    (void)w;
    for (size_t i = 0; i < n_blocks; i++) y[i] = exact_f32_to_f16(x[i]);
}

static void encode_bf16(const float *x, const float *w, size_t n_blocks, void *out) {
    uint16_t *y = out;
    (void)w;
    for (size_t i = 0; i < n_blocks; i++) y[i] = exact_f32_to_bf16(x[i]);
}

/* ---- blocks of 32 ---------------------------------------------------------------------------- */

/* Eight blocks' scales as stored, and codes[lane][value], from 0. */
typedef struct coded32 {
    uint16_t d[N_LANES], m[N_LANES];
    uint8_t q[N_LANES][QUANT_DIM_32];
} coded32;

LANES_INLINE void keep_codes(coded32 *c, int i, lanes l) {
    for (int k = 0; k < N_LANES; k++) c->q[k][i] = (uint8_t)(int32_t)l[k];
}

LANES_INLINE void code_scaled32(const lanes_problem *p, float most, int n_widths, coded32 *c) {
    lanes d = round_f16(fit_scale(CODES_WHOLE, p, most, n_widths).scale, c->d);
    lanes inverse = lanes_inverse(d);
    for (int i = 0; i < p->n; i++)
        keep_codes(c, i, fit_nearest(CODES_WHOLE, most, p->x[i] * inverse) + most);
}

LANES_INLINE void code_affine32(const lanes_problem *p, float most, coded32 *c) {
    fit f = fit_affine(p, most, false, WIDTHS, ENDS);
    lanes d = round_f16(f.scale, c->d), m = round_f16(f.offset, c->m), inverse = lanes_inverse(d);
    for (int i = 0; i < p->n; i++) keep_codes(c, i, lanes_code((p->x[i] - m) * inverse, 0, most));
}

static void pack_nibbles(const uint8_t q[32], uint8_t qs[16]) {
    for (int j = 0; j < 16; j++) qs[j] = (uint8_t)((q[j] & 15) | (q[j + 16] & 15) << 4);
}

static void pack_fifth_bits(const uint8_t q[32], uint8_t qh[4]) {
    uint32_t bits = 0;
    for (int j = 0; j < 32; j++) bits |= (uint32_t)(q[j] >> 4 & 1) << j;
    for (int i = 0; i < 4; i++) qh[i] = (uint8_t)(bits >> 8 * i);
}

/* Calls `code(&problem, &coded)` for every eight blocks and `pack(block, lane)` for each of them.
 */
#define ENCODE_32(stem, code_all, pack_one)                                                        \
    static void encode_##stem(const float *x, const float *w, size_t n_blocks, void *out) {        \
        block_##stem *to = out;                                                                    \
        for (size_t b = 0; b < n_blocks; b += N_LANES) {                                           \
            lanes_problem p;                                                                       \
            coded32 c;                                                                             \
            load(&p, QUANT_DIM_32, x + b * QUANT_DIM_32, w ? w + b * QUANT_DIM_32 : NULL,          \
                 n_blocks - b);                                                                    \
            code_all;                                                                              \
            for (size_t k = 0; k < N_LANES && b + k < n_blocks; k++) {                             \
                block_##stem *y = &to[b + k];                                                      \
                pack_one;                                                                          \
            }                                                                                      \
        }                                                                                          \
    }

ENCODE_32(q4_0, code_scaled32(&p, 8, SCALES, &c), {
    y->d = c.d[k];
    pack_nibbles(c.q[k], y->qs);
})
ENCODE_32(q5_0, code_scaled32(&p, 16, SCALES, &c), {
    y->d = c.d[k];
    pack_nibbles(c.q[k], y->qs);
    pack_fifth_bits(c.q[k], y->qh);
})
ENCODE_32(q4_1, code_affine32(&p, 15, &c), {
    y->d = c.d[k];
    y->m = c.m[k];
    pack_nibbles(c.q[k], y->qs);
})
ENCODE_32(q5_1, code_affine32(&p, 31, &c), {
    y->d = c.d[k];
    y->m = c.m[k];
    pack_nibbles(c.q[k], y->qs);
    pack_fifth_bits(c.q[k], y->qh);
})

/* Eight bits leave little to search: the scale that covers the values, then least squares. */
LANES_INLINE void code_q8_0(const lanes_problem *p, coded32 *c) {
    lanes largest = lanes_abs(p->x[0]);
    for (int i = 1; i < p->n; i++) largest = lanes_max(largest, lanes_abs(p->x[i]));
    fit f = fit_scale_once(CODES_WHOLE, p, 128, 127 * lanes_inverse(largest));
    lanes inverse = lanes_inverse(round_f16(f.scale, c->d));
    for (int i = 0; i < p->n; i++) keep_codes(c, i, lanes_code(p->x[i] * inverse, -127, 127) + 128);
}

ENCODE_32(q8_0, code_q8_0(&p, &c), {
    y->d = c.d[k];
    for (int j = 0; j < QUANT_DIM_32; j++) y->qs[j] = (int8_t)(c.q[k][j] - 128);
})

/* The index of the nearest value of IQ4's table. */
LANES_INLINE lanes iq4_index(lanes x) {
    lanes index = lanes_all(0);
    const lanes one = lanes_all(1);
#define X(from, value) index += lanes_select(x > lanes_all(from), one, lanes_all(0));
    FIT_IQ4_STEPS(X)
#undef X
    return index;
}

LANES_INLINE void code_iq4_nl(const lanes_problem *p, coded32 *c) {
    lanes inverse = lanes_inverse(round_f16(fit_scale(CODES_IQ4, p, 0, SCALES).scale, c->d));
    for (int i = 0; i < p->n; i++) keep_codes(c, i, iq4_index(p->x[i] * inverse));
}

ENCODE_32(iq4_nl, code_iq4_nl(&p, &c), {
    y->d = c.d[k];
    pack_nibbles(c.q[k], y->qs);
})

/* ---- MXFP4 ------------------------------------------------------------------------------------
 */

/* |code| whose value is nearest to |x|, and the value. */
LANES_INLINE lanes mxfp4_nearest(lanes x, lanes *value) {
    const lanes zero = lanes_all(0), one = lanes_all(1);
    lanes code = zero, y = zero, at = lanes_abs(x);
#define STEP(from, reach)                                                                          \
    do {                                                                                           \
        code += lanes_select(at > lanes_all(from), one, zero);                                     \
        y = lanes_select(at > lanes_all(from), lanes_all(reach), y);                               \
    } while (0)
    STEP(0.5f, 1);
    STEP(1.5f, 2);
    STEP(2.5f, 3);
    STEP(3.5f, 4);
    STEP(5, 6);
    STEP(7, 8);
    STEP(10, 12);
#undef STEP
    lanes_mask is_negative = x < zero;
    *value = lanes_select(is_negative, -y, y);
    return code + lanes_select(is_negative & (code > zero), lanes_all(8), zero);
}

/* The power of two at which the largest value is one of the upper codes, or a neighbour of it. */
LANES_INLINE void code_mxfp4(const lanes_problem *p, coded32 *c) {
    enum { FIRST = -1, LAST = 1 };
    lanes largest = lanes_abs(p->x[0]);
    for (int i = 1; i < p->n; i++) largest = lanes_max(largest, lanes_abs(p->x[i]));
    lanes best = lanes_all(FLT_MAX), inverse = lanes_all(0);
    for (int step = FIRST; step <= LAST; step++) {
        lanes by = lanes_all(0), scale = lanes_all(0), error = lanes_all(0);
        int e[N_LANES];
        for (int k = 0; k < N_LANES; k++) {
            int exponent = 0;
            (void)frexpf(largest[k], &exponent); /* largest in [2^(exponent - 1), 2^exponent) */
            e[k] = exponent - 1 - 2 + 127 + step;
            e[k] = e[k] < 0 || largest[k] == 0 ? 0 : e[k] > 254 ? 254 : e[k];
            scale[k] = quant_mxfp4_scale((uint8_t)e[k]);
            by[k] = 1 / scale[k];
        }
        for (int i = 0; i < p->n; i++) {
            lanes y;
            (void)mxfp4_nearest(p->x[i] * by, &y);
            lanes off = p->x[i] - y * scale;
            error += p->w[i] * off * off;
        }
        for (int k = 0; k < N_LANES; k++)
            if (error[k] < best[k])
                best[k] = error[k], inverse[k] = by[k], c->d[k] = (uint16_t)e[k];
    }
    for (int i = 0; i < p->n; i++) {
        lanes y;
        keep_codes(c, i, mxfp4_nearest(p->x[i] * inverse, &y));
    }
}

ENCODE_32(mxfp4, code_mxfp4(&p, &c), {
    y->e = (uint8_t)c.d[k];
    pack_nibbles(c.q[k], y->qs);
})

/* ---- superblocks ------------------------------------------------------------------------------
 */

enum { MAX_PARTS = 2, SUPER_ROUNDS = 2 };

/* A superblock: one or two lots of eight sub-blocks. */
typedef struct super {
    int n_parts, n; /* n: values of a sub-block */
    lanes_problem part[MAX_PARTS];
} super;

/* What is stored of it, and q[value], from 0. */
typedef struct coded256 {
    uint16_t d, dmin;
    int16_t sc[16], mn[16];
    uint8_t q[QUANT_DIM_K];
} coded256;

LANES_INLINE void load_super(super *s, int n_sub, const float *x, const float *w) {
    s->n_parts = n_sub / N_LANES;
    s->n = QUANT_DIM_K / n_sub;
    for (int i = 0; i < s->n_parts; i++) {
        size_t at = (size_t)(i * N_LANES * s->n);
        load(&s->part[i], s->n, x + at, w ? w + at : NULL, N_LANES);
    }
}

LANES_INLINE void keep_super_codes(coded256 *c, const super *s, int part, int i, lanes l) {
    for (int k = 0; k < N_LANES; k++)
        c->q[(part * N_LANES + k) * s->n + i] = (uint8_t)(int32_t)l[k];
}

/* ---- with minimums: x' = d * sc * l - dmin * mn ---- */

enum { MOST_SCALE = 63 };

/* Sums of a superblock with chosen scales and codes, for the least squares' d and dmin, where
 * a = sc * l and b = mn: of w a^2, w a b, w b^2, w x a, w x b. */
typedef struct super_sums {
    float aa, ab, bb, xa, xb, error;
} super_sums;

/* Chooses for every lane sc near scale / d, with the best mn for it; adds up what d and dmin should
 * be for that choice. */
LANES_INLINE void choose_affine(const lanes_problem *p, float most, float most_scale, lanes scale,
                                lanes offset, float d, float dmin, lanes *sc_out, lanes *mn_out,
                                super_sums *sums) {
    const lanes zero = lanes_all(0);
    const lanes by_d = lanes_inverse(lanes_all(d)), by_dmin = lanes_inverse(lanes_all(dmin));
    fit_moments m = fit_sum(p);
    lanes best = lanes_all(FLT_MAX), nearest = scale * by_d;
    *sc_out = *mn_out = zero;
    for (int step = -1; step <= 1; step++) {
        lanes sc = lanes_code(nearest + (float)step, 0, most_scale);
        lanes s = sc * d, inverse = lanes_inverse(s), sl = zero, error = zero;
        for (int i = 0; i < p->n; i++)
            sl += p->w[i] * lanes_code((p->x[i] - offset) * inverse, 0, most);
        lanes wanted = (s * sl - m.wx) * lanes_inverse(m.w);
        lanes mn = lanes_code(wanted * by_dmin, 0, most_scale), o = mn * dmin;
        for (int i = 0; i < p->n; i++) {
            lanes l = lanes_code((p->x[i] + o) * inverse, 0, most), off = p->x[i] + o - s * l;
            error += p->w[i] * off * off;
        }
        lanes_mask is_better = error < best;
        best = lanes_select(is_better, error, best);
        *sc_out = lanes_select(is_better, sc, *sc_out);
        *mn_out = lanes_select(is_better, mn, *mn_out);
    }
    lanes o = *mn_out * dmin, inverse = lanes_inverse(*sc_out * d);
    lanes aa = zero, a1 = zero, xa = zero;
    for (int i = 0; i < p->n; i++) {
        lanes a = *sc_out * lanes_code((p->x[i] + o) * inverse, 0, most), wa = p->w[i] * a;
        aa += wa * a;
        a1 += wa;
        xa += wa * p->x[i];
    }
    lanes ab = a1 * *mn_out, bb = m.w * *mn_out * *mn_out, xb = m.wx * *mn_out;
    for (int k = 0; k < N_LANES; k++) {
        sums->aa += aa[k];
        sums->ab += ab[k];
        sums->bb += bb[k];
        sums->xa += xa[k];
        sums->xb += xb[k];
        sums->error += best[k];
    }
}

LANES_INLINE float largest_lane(const lanes x[MAX_PARTS], int n_parts) {
    float most = 0;
    for (int i = 0; i < n_parts; i++)
        for (int k = 0; k < N_LANES; k++) most = x[i][k] > most ? x[i][k] : most;
    return most;
}

LANES_INLINE void code_affine256(const super *s, float most, float most_scale, int n_widths,
                                 int n_ends, coded256 *c) {
    lanes scale[MAX_PARTS], offset[MAX_PARTS], below[MAX_PARTS];
    for (int i = 0; i < s->n_parts; i++) {
        fit f = fit_affine(&s->part[i], most, true, n_widths, n_ends);
        scale[i] = f.scale;
        offset[i] = f.offset;
        below[i] = -f.offset;
    }
    c->d = exact_f32_to_f16(largest_lane(scale, s->n_parts) / most_scale);
    c->dmin = exact_f32_to_f16(largest_lane(below, s->n_parts) / most_scale);
    float best = FLT_MAX, d = exact_f16_to_f32(c->d), dmin = exact_f16_to_f32(c->dmin);
    lanes best_sc[MAX_PARTS], best_mn[MAX_PARTS];
    for (int i = 0; i < MAX_PARTS; i++) best_sc[i] = best_mn[i] = lanes_all(0);
    for (int round = 0; round < SUPER_ROUNDS; round++) {
        lanes sc[MAX_PARTS], mn[MAX_PARTS];
        super_sums t = {0};
        for (int i = 0; i < s->n_parts; i++)
            choose_affine(&s->part[i], most, most_scale, scale[i], offset[i], d, dmin, &sc[i],
                          &mn[i], &t);
        if (t.error < best) {
            best = t.error;
            c->d = exact_f32_to_f16(d);
            c->dmin = exact_f32_to_f16(dmin);
            for (int i = 0; i < s->n_parts; i++) best_sc[i] = sc[i], best_mn[i] = mn[i];
        }
        float determinant = t.aa * t.bb - t.ab * t.ab;
        if (determinant > 0 && t.bb > 0) {
            d = (t.xa * t.bb - t.xb * t.ab) / determinant;
            dmin = (t.xa * t.ab - t.xb * t.aa) / determinant;
        } else if (t.aa > 0) {
            d = t.xa / t.aa;
        }
        d = exact_f16_to_f32(exact_f32_to_f16(d > 0 ? d : 0));
        dmin = exact_f16_to_f32(exact_f32_to_f16(dmin > 0 ? dmin : 0));
    }
    d = exact_f16_to_f32(c->d);
    dmin = exact_f16_to_f32(c->dmin);
    for (int i = 0; i < s->n_parts; i++) {
        lanes o = best_mn[i] * dmin, inverse = lanes_inverse(best_sc[i] * d);
        for (int j = 0; j < s->n; j++)
            keep_super_codes(c, s, i, j, lanes_code((s->part[i].x[j] + o) * inverse, 0, most));
        for (int k = 0; k < N_LANES; k++) {
            c->sc[i * N_LANES + k] = (int16_t)best_sc[i][k];
            c->mn[i * N_LANES + k] = (int16_t)best_mn[i][k];
        }
    }
}

/* ---- without: x' = d * sc * l ---- */

LANES_INLINE void choose_scaled(coder kind, const lanes_problem *p, float most, float most_scale,
                                lanes scale, float d, lanes *sc_out, super_sums *sums) {
    const lanes zero = lanes_all(0);
    lanes best = lanes_all(FLT_MAX), nearest = scale * lanes_inverse(lanes_all(d));
    lanes best_aa = zero, best_xa = zero;
    *sc_out = zero;
    for (int step = -1; step <= 1; step++) {
        lanes sc = lanes_code(nearest + (float)step, -most_scale, most_scale - 1);
        lanes s = sc * d, inverse = lanes_inverse(s), error = zero, aa = zero, xa = zero;
        for (int i = 0; i < p->n; i++) {
            lanes l = fit_nearest(kind, most, p->x[i] * inverse), off = p->x[i] - s * l;
            lanes a = sc * l, wa = p->w[i] * a;
            error += p->w[i] * off * off;
            aa += wa * a;
            xa += wa * p->x[i];
        }
        lanes_mask is_better = error < best;
        best = lanes_select(is_better, error, best);
        best_aa = lanes_select(is_better, aa, best_aa);
        best_xa = lanes_select(is_better, xa, best_xa);
        *sc_out = lanes_select(is_better, sc, *sc_out);
    }
    for (int k = 0; k < N_LANES; k++) {
        sums->aa += best_aa[k];
        sums->xa += best_xa[k];
        sums->error += best[k];
    }
}

LANES_INLINE void code_scaled256(coder kind, const super *s, float most, float most_scale,
                                 int n_widths, coded256 *c) {
    lanes scale[MAX_PARTS], best_sc[MAX_PARTS];
    float largest = 0;
    for (int i = 0; i < s->n_parts; i++) {
        scale[i] = fit_scale(kind, &s->part[i], most, n_widths).scale;
        best_sc[i] = lanes_all(0);
        for (int k = 0; k < N_LANES; k++)
            if (fabsf(scale[i][k]) > fabsf(largest)) largest = scale[i][k];
    }
    float best = FLT_MAX, d = exact_f16_to_f32(exact_f32_to_f16(-largest / most_scale));
    c->d = exact_f32_to_f16(d);
    for (int round = 0; round < SUPER_ROUNDS; round++) {
        lanes sc[MAX_PARTS];
        super_sums t = {0};
        for (int i = 0; i < s->n_parts; i++)
            choose_scaled(kind, &s->part[i], most, most_scale, scale[i], d, &sc[i], &t);
        if (t.error < best) {
            best = t.error;
            c->d = exact_f32_to_f16(d);
            for (int i = 0; i < s->n_parts; i++) best_sc[i] = sc[i];
        }
        if (t.aa > 0) d = exact_f16_to_f32(exact_f32_to_f16(t.xa / t.aa));
    }
    d = exact_f16_to_f32(c->d);
    for (int i = 0; i < s->n_parts; i++) {
        lanes inverse = lanes_inverse(best_sc[i] * d);
        for (int j = 0; j < s->n; j++) {
            lanes x = s->part[i].x[j] * inverse;
            keep_super_codes(c, s, i, j,
                             kind == CODES_IQ4 ? iq4_index(x) : fit_nearest(kind, most, x) + most);
        }
        for (int k = 0; k < N_LANES; k++) c->sc[i * N_LANES + k] = (int16_t)best_sc[i][k];
    }
}

/* ---- how they are stored ---- */

/* Six-bit scales and minimums of eight sub-blocks, as quant_k_scales reads them. */
static void pack_k_scales(const coded256 *c, uint8_t packed[12]) {
    for (int s = 0; s < 4; s++) {
        packed[s] = (uint8_t)(c->sc[s] | c->sc[s + 4] >> 4 << 6);
        packed[s + 4] = (uint8_t)(c->mn[s] | c->mn[s + 4] >> 4 << 6);
        packed[s + 8] = (uint8_t)((c->sc[s + 4] & 15) | (c->mn[s + 4] & 15) << 4);
    }
}

/* Values 64 p + l and 64 p + 32 + l share a byte. */
static void pack_halves(const uint8_t q[256], uint8_t qs[128]) {
    for (int p = 0; p < 4; p++)
        for (int l = 0; l < 32; l++)
            qs[32 * p + l] = (uint8_t)((q[64 * p + l] & 15) | (q[64 * p + 32 + l] & 15) << 4);
}

/* Two bits of every value, from bit `shift` on: values 128 c + 32 t + l, t from 0 to 3, share a
 * byte. */
static void pack_pairs(const uint8_t q[256], int shift, uint8_t to[64]) {
    for (int c = 0; c < 2; c++)
        for (int l = 0; l < 32; l++) {
            int bits = 0;
            for (int t = 0; t < 4; t++) bits |= (q[128 * c + 32 * t + l] >> shift & 3) << 2 * t;
            to[32 * c + l] = (uint8_t)bits;
        }
}

#define ENCODE_256(stem, n_sub, code_all, pack_one)                                                \
    static void encode_##stem(const float *x, const float *w, size_t n_blocks, void *out) {        \
        block_##stem *y = out;                                                                     \
        for (size_t b = 0; b < n_blocks;                                                           \
             b++, y++, x += QUANT_DIM_K, w = w ? w + QUANT_DIM_K : w) {                            \
            super s;                                                                               \
            coded256 c;                                                                            \
            load_super(&s, n_sub, x, w);                                                           \
            code_all;                                                                              \
            pack_one;                                                                              \
        }                                                                                          \
    }

ENCODE_256(q4_k, 8, code_affine256(&s, 15, MOST_SCALE, WIDTHS, ENDS, &c), {
    y->d = c.d;
    y->dmin = c.dmin;
    pack_k_scales(&c, y->scales);
    pack_halves(c.q, y->qs);
})
ENCODE_256(q5_k, 8, code_affine256(&s, 31, MOST_SCALE, WIDTHS, ENDS, &c), {
    y->d = c.d;
    y->dmin = c.dmin;
    pack_k_scales(&c, y->scales);
    pack_halves(c.q, y->qs);
    for (int l = 0; l < 32; l++) {
        int bits = 0;
        for (int i = 0; i < 8; i++) bits |= (c.q[32 * i + l] >> 4) << i;
        y->qh[l] = (uint8_t)bits;
    }
})
ENCODE_256(q2_k, 16, code_affine256(&s, 3, 15, WIDTHS, ENDS, &c), {
    y->d = c.d;
    y->dmin = c.dmin;
    for (int i = 0; i < 16; i++) y->scales[i] = (uint8_t)(c.sc[i] | c.mn[i] << 4);
    pack_pairs(c.q, 0, y->qs);
})
ENCODE_256(q3_k, 16, code_scaled256(CODES_WHOLE, &s, 4, 32, SCALES, &c), {
    y->d = c.d;
    memset(y->scales, 0, sizeof y->scales);
    for (int i = 0; i < 16; i++) { /* as quant_q3_scales reads them */
        int sc = c.sc[i] + 32;
        y->scales[i % 8] = (uint8_t)(y->scales[i % 8] | (sc & 15) << (i < 8 ? 0 : 4));
        y->scales[8 + i % 4] = (uint8_t)(y->scales[8 + i % 4] | (sc >> 4) << 2 * (i / 4));
    }
    pack_pairs(c.q, 0, y->qs);
    for (int l = 0; l < 32; l++) {
        int bits = 0;
        for (int i = 0; i < 8; i++) bits |= (c.q[32 * i + l] >> 2) << i;
        y->hmask[l] = (uint8_t)bits;
    }
})
ENCODE_256(q6_k, 16, code_scaled256(CODES_WHOLE, &s, 32, 128, SCALES, &c), {
    y->d = c.d;
    for (int i = 0; i < 16; i++) y->scales[i] = (int8_t)c.sc[i];
    for (int h = 0; h < 2; h++)
        for (int l = 0; l < 64; l++) {
            const uint8_t *q = c.q + 128 * h + l;
            y->ql[64 * h + l] = (uint8_t)((q[0] & 15) | (q[64] & 15) << 4);
        }
    pack_pairs(c.q, 4, y->qh);
})
ENCODE_256(iq4_xs, 8, code_scaled256(CODES_IQ4, &s, 0, 32, SCALES, &c), {
    y->d = c.d;
    y->scales_h = 0;
    memset(y->scales_l, 0, sizeof y->scales_l);
    for (int i = 0; i < 8; i++) {
        int sc = c.sc[i] + 32;
        y->scales_l[i / 2] = (uint8_t)(y->scales_l[i / 2] | (sc & 15) << 4 * (i % 2));
        y->scales_h = (uint16_t)(y->scales_h | (sc >> 4) << 2 * i);
        pack_nibbles(c.q + 32 * i, y->qs + 16 * i);
    }
})
