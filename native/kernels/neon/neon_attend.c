/* neon_attend: query rows over one chunk of keys and values.
 *
 * Keys lie beside each other for one dimension, so four keys' scores are the lanes of a register
 * and no score needs a sum across lanes; values are the lanes of the result. Both passes work on
 * tiles of up to four rows and a slab of 16 keys or dimensions, sixteen chains of fmaf at once.
 * With few rows every key and value is converted from F16 once on its way; with many, a slab of
 * them is converted first and met by all rows.
 */
#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/exact.h"
#include "kernels/neon/neon_exp.h"
#include "kernels/neon/neon_vector.h"

enum {
    TILE_ROWS = 4,
    SLAB = 16, /* keys, or dimensions of values, of a tile */
    VECTORS = SLAB / 4,
    BLOCK_ROWS = 64, /* rows that share one conversion */
};

/* What lies in scratch. */
typedef struct attend_scratch {
    float p[BLOCK_ROWS][KERNELS_CHUNK]; /* scores, then their exponentials */
    float v[KERNELS_CHUNK][SLAB];
    float k[][SLAB]; /* [head_dim] */
} attend_scratch;

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* Four values from F16 or, when `slab`, from converted memory. */
EXP_INLINE float32x4_t load(bool slab, const void *from, size_t i) {
    if (slab) return vld1q_f32((const float *)from + i);
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)from + i)));
}

static void convert(const uint16_t *from, size_t stride, size_t n, size_t width,
                    float (*to)[SLAB]) {
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < width; j += 4)
            vst1q_f32(to[i] + j, load(false, from, i * stride + j));
    }
}

/* p[r][key ...] = scale * q[r] . keys, for n_rows rows and a slab of keys at k. */
EXP_INLINE void score_tile(bool slab, int n_rows, const void *k, size_t head_dim, const float *q,
                           size_t q_stride, float scale, float (*p)[KERNELS_CHUNK], size_t key) {
    const size_t stride = slab ? SLAB : KERNELS_CHUNK;
    float32x4_t sums[TILE_ROWS][VECTORS];
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) sums[r][v] = vdupq_n_f32(0);
    }
    for (size_t d = 0; d < head_dim; d++) {
        float32x4_t keys[VECTORS];
#pragma GCC unroll 4
        for (size_t v = 0; v < VECTORS; v++) keys[v] = load(slab, k, d * stride + 4 * v);
#pragma GCC unroll 4
        for (int r = 0; r < n_rows; r++) {
            float32x4_t x = vld1q_dup_f32(q + (size_t)r * q_stride + d);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) sums[r][v] = vfmaq_f32(sums[r][v], x, keys[v]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < VECTORS; v++) {
            vst1q_f32(p[r] + key + 4 * v, vmulq_n_f32(sums[r][v], scale));
        }
    }
}

EXP_INLINE void score_rows(bool slab, size_t n_rows, const void *k, size_t head_dim, const float *q,
                           size_t q_stride, float scale, float (*p)[KERNELS_CHUNK], size_t key) {
    switch (n_rows) {
    case 1:
        score_tile(slab, 1, k, head_dim, q, q_stride, scale, p, key);
        break;
    case 2:
        score_tile(slab, 2, k, head_dim, q, q_stride, scale, p, key);
        break;
    case 3:
        score_tile(slab, 3, k, head_dim, q, q_stride, scale, p, key);
        break;
    default:
        score_tile(slab, 4, k, head_dim, q, q_stride, scale, p, key);
        break;
    }
}

/* Lanes of 4 positions from j that lie in [first, last). */
EXP_INLINE uint32x4_t visible(size_t j, size_t first, size_t last) {
    static const uint32_t lanes[4] = {0, 1, 2, 3};
    uint32x4_t at = vaddq_u32(vld1q_u32(lanes), vdupq_n_u32((uint32_t)j));
    return vandq_u32(vcgeq_u32(at, vdupq_n_u32((uint32_t)first)),
                     vcltq_u32(at, vdupq_n_u32((uint32_t)last)));
}

static float largest(const float *s, size_t first, size_t last) {
    const float32x4_t lowest = vdupq_n_f32(-INFINITY);
    float32x4_t m = lowest;
    for (size_t j = first / 4 * 4; j < last; j += 4) {
        m = vmaxq_f32(m, vbslq_f32(visible(j, first, last), vld1q_f32(s + j), lowest));
    }
    float top = vmaxvq_f32(m);
    if (top == 0) { /* of zeros with different signs the first one counts */
        while (s[first] != 0) first++;
        top = s[first];
    }
    return top;
}

/* Scores become exponentials in place. */
static void softmax(float *p, size_t first, size_t last, attend_state *state) {
    state->m = largest(p, first, last);
    const float32x4_t m = vdupq_n_f32(state->m);
    float32x4_t lanes[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    for (size_t j = first / 4 * 4; j < last; j += 4) {
        float32x4_t e = exp_f32x4(vsubq_f32(vld1q_f32(p + j), m));
        vst1q_f32(p + j, e);
        uint32x4_t seen = vandq_u32(vreinterpretq_u32_f32(e), visible(j, first, last));
        float32x4_t *lane = &lanes[j / 4 % 4];
        *lane = vaddq_f32(*lane, vreinterpretq_f32_u32(seen));
    }
    state->l = tree_f32x4(lanes);
}

/* o[r][dim ...] += p[r][j] * v[j], j in [first, last) ascending, for 4 * n_vectors dimensions. */
EXP_INLINE void value_tile(bool slab, int n_rows, int n_vectors, const void *v, size_t stride,
                           const float *p, size_t first, size_t last, const attend_state *state,
                           size_t dim) {
    float32x4_t sums[TILE_ROWS][VECTORS];
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 4
        for (int i = 0; i < n_vectors; i++) sums[r][i] = vld1q_f32(state[r].o + dim + 4 * i);
    }
    for (size_t j = first; j < last; j++) {
        float32x4_t values[VECTORS];
#pragma GCC unroll 4
        for (int i = 0; i < n_vectors; i++) values[i] = load(slab, v, j * stride + 4 * (size_t)i);
#pragma GCC unroll 4
        for (int r = 0; r < n_rows; r++) {
            float32x4_t x = vld1q_dup_f32(p + r * KERNELS_CHUNK + (ptrdiff_t)j);
#pragma GCC unroll 4
            for (int i = 0; i < n_vectors; i++) sums[r][i] = vfmaq_f32(sums[r][i], x, values[i]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 4
        for (int i = 0; i < n_vectors; i++) vst1q_f32(state[r].o + dim + 4 * i, sums[r][i]);
    }
}

/* The same for up to SLAB dimensions, a multiple of 8. */
EXP_INLINE void value_rows(bool slab, size_t n_rows, size_t n_dims, const void *v, size_t stride,
                           const float *p, size_t first, size_t last, const attend_state *state,
                           size_t dim) {
    if (first >= last) return;
    if (n_dims < SLAB) {
        for (size_t r = 0; r < n_rows; r++) {
            value_tile(slab, 1, 2, v, stride, p + r * KERNELS_CHUNK, first, last, state + r, dim);
        }
        return;
    }
    switch (n_rows) {
    case 1:
        value_tile(slab, 1, VECTORS, v, stride, p, first, last, state, dim);
        break;
    case 2:
        value_tile(slab, 2, VECTORS, v, stride, p, first, last, state, dim);
        break;
    case 3:
        value_tile(slab, 3, VECTORS, v, stride, p, first, last, state, dim);
        break;
    default:
        value_tile(slab, 4, VECTORS, v, stride, p, first, last, state, dim);
        break;
    }
}

/* Rows see different positions: together where all of them see, each alone before and after. */
EXP_INLINE void value_ranges(bool slab, size_t n_rows, size_t n_dims, const void *v, size_t stride,
                             const float *p, const uint8_t *first, const uint8_t *last,
                             const attend_state *state, size_t dim) {
    size_t from = 0, to = KERNELS_CHUNK;
    for (size_t r = 0; r < n_rows; r++) {
        from = first[r] > from ? first[r] : from;
        to = last[r] < to ? last[r] : to;
    }
    if (from > to) from = to = KERNELS_CHUNK; /* nothing in common */
    for (size_t r = 0; r < n_rows; r++) {
        value_rows(slab, 1, n_dims, v, stride, p + r * KERNELS_CHUNK, first[r],
                   smaller(last[r], from), state + r, dim);
    }
    value_rows(slab, n_rows, n_dims, v, stride, p, from, to, state, dim);
    for (size_t r = 0; r < n_rows; r++) {
        value_rows(slab, 1, n_dims, v, stride, p + r * KERNELS_CHUNK, to, last[r], state + r, dim);
    }
}

/* Up to TILE_ROWS rows, straight from F16. */
static void attend_few(const attend_chunk *chunk, const float *q, size_t q_stride, size_t n_rows,
                       float scale, const uint8_t *first, const uint8_t *last, size_t key0,
                       size_t key1, attend_state *state, attend_scratch *s) {
    const size_t head_dim = chunk->head_dim;
    for (size_t key = key0; key < key1; key += SLAB) {
        score_rows(false, n_rows, chunk->k + key, head_dim, q, q_stride, scale, s->p, key);
    }
    for (size_t r = 0; r < n_rows; r++) softmax(s->p[r], first[r], last[r], &state[r]);
    for (size_t d = 0; d < head_dim; d += SLAB) {
        value_ranges(false, n_rows, smaller(SLAB, head_dim - d), chunk->v + d, head_dim, s->p[0],
                     first, last, state, d);
    }
}

/* Whether any of n_rows rows sees one of SLAB positions from key. */
static bool sees(const uint8_t *first, const uint8_t *last, size_t n_rows, size_t key) {
    for (size_t r = 0; r < n_rows; r++) {
        if (first[r] < key + SLAB && last[r] > key) return true;
    }
    return false;
}

/* Up to BLOCK_ROWS rows, slab by slab. */
static void attend_many(const attend_chunk *chunk, const float *q, size_t q_stride, size_t n_rows,
                        float scale, const uint8_t *first, const uint8_t *last, size_t key0,
                        size_t key1, attend_state *state, attend_scratch *s) {
    const size_t head_dim = chunk->head_dim;
    for (size_t key = key0; key < key1; key += SLAB) {
        convert(chunk->k + key, KERNELS_CHUNK, head_dim, SLAB, s->k);
        for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
            size_t n = smaller(TILE_ROWS, n_rows - r);
            if (!sees(first + r, last + r, n, key)) continue;
            score_rows(true, n, s->k, head_dim, q + r * q_stride, q_stride, scale, s->p + r, key);
        }
    }
    for (size_t r = 0; r < n_rows; r++) softmax(s->p[r], first[r], last[r], &state[r]);
    for (size_t d = 0; d < head_dim; d += SLAB) {
        size_t n_dims = smaller(SLAB, head_dim - d);
        convert(chunk->v + key0 * head_dim + d, head_dim, key1 - key0, n_dims, s->v + key0);
        for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
            value_ranges(true, smaller(TILE_ROWS, n_rows - r), n_dims, s->v, SLAB, s->p[r],
                         first + r, last + r, state + r, d);
        }
    }
}

void neon_attend(const attend_chunk *chunk, const float *q, size_t q_stride, size_t n_rows,
                 float scale, const uint8_t *first, const uint8_t *last, attend_state *state,
                 void *scratch) {
    attend_scratch *s = scratch;
    assert(sizeof *s + chunk->head_dim * sizeof s->k[0] <= KERNELS_SCRATCH_BYTES);
    for (size_t r0 = 0; r0 < n_rows; r0 += BLOCK_ROWS) {
        size_t n = smaller(BLOCK_ROWS, n_rows - r0);
        size_t key0 = KERNELS_CHUNK, key1 = 0; /* what any row sees, in whole slabs */
        for (size_t r = r0; r < r0 + n; r++) {
            key0 = smaller(first[r], key0);
            key1 = last[r] > key1 ? last[r] : key1;
            memset(state[r].o, 0, chunk->head_dim * sizeof(float));
        }
        key0 = key0 / SLAB * SLAB;
        key1 = (key1 + SLAB - 1) / SLAB * SLAB;
        (n <= TILE_ROWS ? attend_few : attend_many)(chunk, q + r0 * q_stride, q_stride, n, scale,
                                                    first + r0, last + r0, key0, key1, state + r0,
                                                    s);
    }
}

void neon_attend_merge(attend_state *into, const attend_state *from, size_t head_dim) {
    const float m = from->m > into->m ? from->m : into->m;
    const float a = exact_exp(into->m - m), b = exact_exp(from->m - m);
    const float32x4_t scale_from = vdupq_n_f32(b);
    into->m = m;
    into->l = fmaf(from->l, b, into->l * a);
    for (size_t d = 0; d < head_dim; d += 4) {
        float32x4_t o = vmulq_n_f32(vld1q_f32(into->o + d), a);
        vst1q_f32(into->o + d, vfmaq_f32(o, vld1q_f32(from->o + d), scale_from));
    }
}
