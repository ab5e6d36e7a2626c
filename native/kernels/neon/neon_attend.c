/* neon_attend: query rows over one chunk of keys and values.
 *
 * Keys lie beside each other for one dimension, so four keys' scores are the lanes of a register
 * and no score needs a sum across lanes; values are the lanes of the result. Both passes work on
 * tiles of up to four rows and a slab of 16 keys or dimensions, sixteen chains of fmaf at once.
 * With few rows every key and value is converted to f32 once on its way; with many, a slab of them
 * is converted first and met by all rows.
 */
#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/exact.h"
#include "kernels/neon/neon_kernels.h"
#include "kernels/neon/neon_vec.h"

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

/* What a tile finds keys or values as: converted, or one of the stored types. */
typedef enum form { F32, F16, Q8, Q4 } form;

#define STORED(X) X(F16) X(Q8) X(Q4)

static const form form_of[KV_TYPE_COUNT] = {[KV_F16] = F16, [KV_Q8_0] = Q8, [KV_Q4_0] = Q4};

VEC_INLINE bool has_scales(form as) { return as == Q8 || as == Q4; }

/* Where the keys or values of a tile lie, from its first lane on. */
typedef struct source {
    const void *at;
    size_t stride;          /* elements from a channel of keys, or a value, to the next; of Q4 keys,
                             * bytes from two channels to the next two */
    const uint16_t *scales; /* of Q8 and Q4 */
    size_t scale_stride;    /* from a block of keys, or a value, to the next */
} source;

/* n_vectors, 2 or 4, times four values from element i; of Q8, the codes. */
VEC_INLINE void convert_codes(int8x8_t bytes, float32x4_t *to) {
    int16x8_t codes = vmovl_s8(bytes);
    to[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(codes)));
    to[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(codes)));
}

VEC_INLINE void load(form as, const void *from, size_t i, size_t n_vectors, float32x4_t *to) {
#pragma GCC unroll 4
    for (size_t v = 0; v < n_vectors && as == F32; v++) {
        to[v] = vld1q_f32((const float *)from + i + 4 * v);
    }
#pragma GCC unroll 4
    for (size_t v = 0; v < n_vectors && as == F16; v++) {
        uint16x4_t half = vld1_u16((const uint16_t *)from + i + 4 * v);
        to[v] = vcvt_f32_f16(vreinterpret_f16_u16(half));
    }
#pragma GCC unroll 2
    for (size_t v = 0; v < n_vectors && as == Q8; v += 2) {
        convert_codes(vld1_s8((const int8_t *)from + i + 4 * v), to + v);
    }
}

/* What eight u4 stand for. */
VEC_INLINE int8x8_t number_of_q4(uint8x8_t codes) {
    return vsub_s8(vreinterpret_s8_u8(codes), vdup_n_s8(8));
}

/* Channel d of a slab of keys; of Q8 and Q4, the codes. */
VEC_INLINE void load_keys(form as, const source *k, size_t d, float32x4_t *to) {
    if (as != Q4) {
        load(as, k->at, d * k->stride, VECTORS, to);
        return;
    }
    const uint8_t *pairs = (const uint8_t *)k->at + d / 2 * k->stride;
    const int8x8_t shift = vdup_n_s8(d % 2 ? -4 : 0);
#pragma GCC unroll 2
    for (size_t v = 0; v < VECTORS; v += 2) {
        uint8x8_t codes = vand_u8(vshl_u8(vld1_u8(pairs + 4 * v), shift), vdup_n_u8(15));
        convert_codes(number_of_q4(codes), to + v);
    }
}

/* n_vectors, 2 or 4, times four channels of value j from d on; of Q8 and Q4, the codes. */
VEC_INLINE void load_values(form as, const source *v, size_t j, size_t d, size_t n_vectors,
                            float32x4_t *to) {
    const size_t i = j * v->stride + d;
    if (as != Q4) {
        load(as, v->at, i, n_vectors, to);
        return;
    }
#pragma GCC unroll 2
    for (size_t n = 0; n < n_vectors; n += 2) {
        uint32_t four;
        memcpy(&four, (const uint8_t *)v->at + i / 2 + 2 * n, sizeof four);
        uint8x8_t pairs = vreinterpret_u8_u32(vdup_n_u32(four));
        uint8x8x2_t codes = vzip_u8(vand_u8(pairs, vdup_n_u8(15)), vshr_n_u8(pairs, 4));
        convert_codes(number_of_q4(codes.val[0]), to + n);
    }
}

/* The scales of four keys in the block of channel d. */
VEC_INLINE float32x4_t key_scales(const source *k, size_t d, size_t key) {
    const uint16_t *scales = k->scales + d / KV_BLOCK_DIM * k->scale_stride + key;
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(scales)));
}

/* The scale of value j. */
VEC_INLINE float32x4_t value_scale(const source *v, size_t j) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_dup_u16(v->scales + j * v->scale_stride)));
}

/* Keys from `key` on, and values from position j and channel d on. */
static source keys_at(const attend_chunk *chunk, size_t key) {
    const size_t item = chunk->k_type == KV_F16 ? sizeof(uint16_t) : sizeof(uint8_t);
    return (source){(const char *)chunk->k + key * item, KERNELS_CHUNK,
                    kv_scales(chunk->k_type, chunk->k, chunk->head_dim) + key, KERNELS_CHUNK};
}

static source values_at(const attend_chunk *chunk, size_t j, size_t d) {
    const size_t n = chunk->head_dim, n_blocks = kv_n_blocks(n), i = j * n + d;
    const size_t at = chunk->v_type == KV_F16    ? i * sizeof(uint16_t)
                      : chunk->v_type == KV_Q8_0 ? i
                                                 : i / 2;
    return (source){(const char *)chunk->v + at, n,
                    kv_scales(chunk->v_type, chunk->v, n) + j * n_blocks + d / KV_BLOCK_DIM,
                    n_blocks};
}

/* A slab of keys, channel by channel. */
VEC_INLINE void convert_keys(form as, source k, size_t head_dim, float (*to)[SLAB]) {
    for (size_t d = 0; d < head_dim; d++) {
        float32x4_t x[VECTORS];
        load_keys(as, &k, d, x);
        for (size_t v = 0; v < VECTORS; v++) {
            if (has_scales(as)) x[v] = vmulq_f32(x[v], key_scales(&k, d, 4 * v));
            vst1q_f32(to[d] + 4 * v, x[v]);
        }
    }
}

/* n_dims channels of n values. */
VEC_INLINE void convert_values(form as, source v, size_t n, size_t n_dims, float (*to)[SLAB]) {
    for (size_t j = 0; j < n; j++) {
        for (size_t d = 0; d < n_dims; d += 8) {
            float32x4_t x[2];
            load_values(as, &v, j, d, 2, x);
            for (size_t i = 0; i < 2; i++) {
                if (has_scales(as)) x[i] = vmulq_f32(x[i], value_scale(&v, j));
                vst1q_f32(to[j] + d + 4 * i, x[i]);
            }
        }
    }
}

/* p[r][key ...] = scale * q[r] . keys, for n_rows rows and a slab of keys at k. */
VEC_INLINE void score_tile(form as, int n_rows, source k, size_t head_dim, const float *q,
                           size_t q_stride, float scale, float (*p)[KERNELS_CHUNK], size_t key) {
    float32x4_t sums[TILE_ROWS][VECTORS];
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) sums[r][v] = vdupq_n_f32(0);
    }
    const size_t span = has_scales(as) ? KV_BLOCK_DIM : head_dim; /* channels of one scale */
    for (size_t start = 0; start < head_dim; start += span) {
        float32x4_t scales[VECTORS];
#pragma GCC unroll 4
        for (size_t v = 0; v < VECTORS; v++) {
            if (has_scales(as)) scales[v] = key_scales(&k, start, 4 * v);
        }
        const size_t end = smaller(start + span, head_dim);
        for (size_t d = start; d < end; d++) {
            float32x4_t keys[VECTORS];
            load_keys(as, &k, d, keys);
#pragma GCC unroll 4
            for (size_t v = 0; v < VECTORS; v++) {
                if (has_scales(as)) keys[v] = vmulq_f32(keys[v], scales[v]);
            }
#pragma GCC unroll 4
            for (int r = 0; r < n_rows; r++) {
                float32x4_t x = vld1q_dup_f32(q + (size_t)r * q_stride + d);
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++) sums[r][v] = vfmaq_f32(sums[r][v], x, keys[v]);
            }
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

VEC_INLINE void score_rows(form as, size_t n_rows, source k, size_t head_dim, const float *q,
                           size_t q_stride, float scale, float (*p)[KERNELS_CHUNK], size_t key) {
    switch (n_rows) {
    case 1:
        score_tile(as, 1, k, head_dim, q, q_stride, scale, p, key);
        break;
    case 2:
        score_tile(as, 2, k, head_dim, q, q_stride, scale, p, key);
        break;
    case 3:
        score_tile(as, 3, k, head_dim, q, q_stride, scale, p, key);
        break;
    default:
        score_tile(as, 4, k, head_dim, q, q_stride, scale, p, key);
        break;
    }
}

/* Lanes of 4 positions from j that lie in [first, last). */
VEC_INLINE uint32x4_t visible(size_t j, size_t first, size_t last) {
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
        float32x4_t e = vec_exp(vsubq_f32(vld1q_f32(p + j), m));
        vst1q_f32(p + j, e);
        uint32x4_t seen = vandq_u32(vreinterpretq_u32_f32(e), visible(j, first, last));
        float32x4_t *lane = &lanes[j / 4 % 4];
        *lane = vaddq_f32(*lane, vreinterpretq_f32_u32(seen));
    }
    state->l = vec_tree16(lanes);
}

/* o[r][dim ...] += p[r][j] * v[j], j in [first, last) ascending, for 4 * n_vectors dimensions. */
VEC_INLINE void value_tile(form as, int n_rows, int n_vectors, source v, const float *p,
                           size_t first, size_t last, const attend_state *state, size_t dim) {
    float32x4_t sums[TILE_ROWS][VECTORS];
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 4
        for (int i = 0; i < n_vectors; i++) sums[r][i] = vld1q_f32(state[r].o + dim + 4 * i);
    }
    for (size_t j = first; j < last; j++) {
        float32x4_t values[VECTORS];
        load_values(as, &v, j, 0, (size_t)n_vectors, values);
#pragma GCC unroll 4
        for (int i = 0; i < n_vectors; i++) {
            if (has_scales(as)) values[i] = vmulq_f32(values[i], value_scale(&v, j));
        }
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
VEC_INLINE void value_rows(form as, size_t n_rows, size_t n_dims, source v, const float *p,
                           size_t first, size_t last, const attend_state *state, size_t dim) {
    if (first >= last) return;
    if (n_dims < SLAB) {
        for (size_t r = 0; r < n_rows; r++) {
            value_tile(as, 1, 2, v, p + r * KERNELS_CHUNK, first, last, state + r, dim);
        }
        return;
    }
    switch (n_rows) {
    case 1:
        value_tile(as, 1, VECTORS, v, p, first, last, state, dim);
        break;
    case 2:
        value_tile(as, 2, VECTORS, v, p, first, last, state, dim);
        break;
    case 3:
        value_tile(as, 3, VECTORS, v, p, first, last, state, dim);
        break;
    default:
        value_tile(as, 4, VECTORS, v, p, first, last, state, dim);
        break;
    }
}

/* Rows see different positions: together where all of them see, each alone before and after. */
VEC_INLINE void value_ranges(form as, size_t n_rows, size_t n_dims, source v, const float *p,
                             const uint8_t *first, const uint8_t *last, const attend_state *state,
                             size_t dim) {
    size_t from = 0, to = KERNELS_CHUNK;
    for (size_t r = 0; r < n_rows; r++) {
        from = first[r] > from ? first[r] : from;
        to = last[r] < to ? last[r] : to;
    }
    if (from > to) from = to = KERNELS_CHUNK; /* nothing in common */
    for (size_t r = 0; r < n_rows; r++) {
        value_rows(as, 1, n_dims, v, p + r * KERNELS_CHUNK, first[r], smaller(last[r], from),
                   state + r, dim);
    }
    value_rows(as, n_rows, n_dims, v, p, from, to, state, dim);
    for (size_t r = 0; r < n_rows; r++) {
        value_rows(as, 1, n_dims, v, p + r * KERNELS_CHUNK, to, last[r], state + r, dim);
    }
}

/* Up to TILE_ROWS rows, straight from what is stored. */
static void attend_few(const attend_chunk *chunk, const float *q, size_t q_stride, size_t n_rows,
                       float scale, const uint8_t *first, const uint8_t *last, size_t key0,
                       size_t key1, attend_state *state, attend_scratch *s) {
    const size_t head_dim = chunk->head_dim;
    const form k_form = form_of[chunk->k_type], v_form = form_of[chunk->v_type];
    for (size_t key = key0; key < key1; key += SLAB) {
        source k = keys_at(chunk, key);
#define X(form)                                                                                    \
    if (k_form == form) score_rows(form, n_rows, k, head_dim, q, q_stride, scale, s->p, key);
        STORED(X)
#undef X
    }
    for (size_t r = 0; r < n_rows; r++) softmax(s->p[r], first[r], last[r], &state[r]);
    for (size_t d = 0; d < head_dim; d += SLAB) {
        size_t n_dims = smaller(SLAB, head_dim - d);
        source v = values_at(chunk, 0, d);
#define X(form)                                                                                    \
    if (v_form == form) value_ranges(form, n_rows, n_dims, v, s->p[0], first, last, state, d);
        STORED(X)
#undef X
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
    const form k_form = form_of[chunk->k_type], v_form = form_of[chunk->v_type];
    const source k = {.at = s->k, .stride = SLAB}, v = {.at = s->v, .stride = SLAB};
    for (size_t key = key0; key < key1; key += SLAB) {
#define X(form)                                                                                    \
    if (k_form == form) convert_keys(form, keys_at(chunk, key), head_dim, s->k);
        STORED(X)
#undef X
        for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
            size_t n = smaller(TILE_ROWS, n_rows - r);
            if (!sees(first + r, last + r, n, key)) continue;
            score_rows(F32, n, k, head_dim, q + r * q_stride, q_stride, scale, s->p + r, key);
        }
    }
    for (size_t r = 0; r < n_rows; r++) softmax(s->p[r], first[r], last[r], &state[r]);
    for (size_t d = 0; d < head_dim; d += SLAB) {
        size_t n_dims = smaller(SLAB, head_dim - d);
#define X(form)                                                                                    \
    if (v_form == form)                                                                            \
        convert_values(form, values_at(chunk, key0, d), key1 - key0, n_dims, s->v + key0);
        STORED(X)
#undef X
        for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
            size_t n = smaller(TILE_ROWS, n_rows - r);
            value_ranges(F32, n, n_dims, v, s->p[r], first + r, last + r, state + r, d);
        }
    }
}

size_t neon_attend_scratch(size_t head_dim, size_t n_rows) {
    if (n_rows <= TILE_ROWS) return sizeof(attend_scratch); /* only p */
    return sizeof(attend_scratch) + head_dim * SLAB * sizeof(float);
}

void neon_attend(const attend_chunk *chunk, const float *q, size_t q_stride, size_t n_rows,
                 float scale, const uint8_t *first, const uint8_t *last, attend_state *state,
                 void *scratch) {
    attend_scratch *s = scratch;
    assert(neon_attend_scratch(chunk->head_dim, n_rows) <= KERNELS_SCRATCH_BYTES);
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
