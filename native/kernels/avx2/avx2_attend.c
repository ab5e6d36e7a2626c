/* avx2_attend: query rows over one chunk of keys and values.
 *
 * Keys lie beside each other for one dimension, so eight keys' scores are the lanes of a register
 * and no score needs a sum across lanes; values are the lanes of the result. Both passes work on
 * tiles of up to four rows, eight chains of fmaf at once. With few rows every key and value is
 * converted to f32 once on its way; with many, a slab of them is converted first and met by all
 * rows.
 *
 * The chunks of a context lie far apart in memory, where the processor's own prefetching does not
 * find the next in time. So with every piece that is read the same piece of the next chunk is asked
 * for.
 */
#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/avx2/avx2_kernels.h"
#include "kernels/avx2/avx2_vec.h"

enum {
    TILE_ROWS = 4,
    SLAB = 16,       /* keys, or dimensions of values, converted at once */
    BLOCK_ROWS = 64, /* rows that share one conversion */
    CHAINS = 8,
};

/* What lies in scratch. */
typedef struct attend_scratch {
    float p[BLOCK_ROWS][KERNELS_CHUNK]; /* scores, then their exponentials */
    float v[KERNELS_CHUNK][SLAB];
    float k[][SLAB]; /* [head_dim] */
} attend_scratch;

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
    const void *next;       /* the same place in the chunk that comes next; NULL: none */
} source;

/* Eight values from element i; of Q8, the codes. */
VEC_INLINE __m256 load(form as, const void *from, size_t i) {
    if (as == F32) return _mm256_loadu_ps((const float *)from + i);
    if (as == F16)
        return _mm256_cvtph_ps(_mm_loadu_si128((const void *)((const uint16_t *)from + i)));
    __m128i codes = _mm_loadl_epi64((const void *)((const int8_t *)from + i));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
}

/* Asks for element i of the next chunk: into L2, as two chunks are more than L1 has room for. */
VEC_INLINE void fetch(form as, const source *s, size_t i) {
    if (as == F32 || s->next == NULL) return;
    const size_t at = as == F16 ? i * sizeof(uint16_t) : as == Q8 ? i : i / 2;
    _mm_prefetch((const char *)s->next + at, _MM_HINT_T1);
}

/* What the u4 in eight lanes stand for. */
VEC_INLINE __m256 number_of_q4(__m256i codes) {
    codes = _mm256_and_si256(codes, _mm256_set1_epi32(15));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(codes, _mm256_set1_epi32(8)));
}

/* Channel d of eight keys; of Q8 and Q4, the codes. */
VEC_INLINE __m256 load_keys(form as, const source *k, size_t d, size_t key) {
    if (as != Q4) return load(as, k->at, d * k->stride + key);
    const uint8_t *pairs = (const uint8_t *)k->at + d / 2 * k->stride + key;
    __m256i codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)pairs));
    return number_of_q4(_mm256_srl_epi32(codes, _mm_cvtsi32_si128((int)(d % 2 * 4))));
}

/* Eight channels of value j from d on; of Q8 and Q4, the codes. */
VEC_INLINE __m256 load_values(form as, const source *v, size_t j, size_t d) {
    const size_t i = j * v->stride + d;
    if (as != Q4) return load(as, v->at, i);
    int32_t pairs;
    memcpy(&pairs, (const uint8_t *)v->at + i / 2, sizeof pairs);
    __m256i low = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(pairs)); /* 64 bits for two of 32 */
    return number_of_q4(_mm256_or_si256(low, _mm256_slli_epi64(low, 28)));
}

/* The scales of eight keys in the block of channel d. */
VEC_INLINE __m256 key_scales(const source *k, size_t d, size_t key) {
    const uint16_t *scales = k->scales + d / KV_BLOCK_DIM * k->scale_stride + key;
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)scales));
}

/* The scale of value j. */
VEC_INLINE __m256 value_scale(const source *v, size_t j) {
    return _mm256_cvtph_ps(_mm_set1_epi16((short)v->scales[j * v->scale_stride]));
}

static const void *bytes_from(const void *start, size_t n_bytes) {
    return start == NULL ? NULL : (const char *)start + n_bytes;
}

/* Keys from `key` on, and values from position j and channel d on. */
static source keys_at(const attend_chunk *chunk, size_t key) {
    const size_t at = key * (chunk->k_type == KV_F16 ? sizeof(uint16_t) : sizeof(uint8_t));
    return (source){.at = bytes_from(chunk->k, at),
                    .stride = KERNELS_CHUNK,
                    .scales = kv_scales(chunk->k_type, chunk->k, chunk->head_dim) + key,
                    .scale_stride = KERNELS_CHUNK,
                    .next = bytes_from(chunk->next_k, at)};
}

static source values_at(const attend_chunk *chunk, size_t j, size_t d) {
    const size_t n = chunk->head_dim, n_blocks = kv_n_blocks(n), i = j * n + d;
    const size_t at = chunk->v_type == KV_F16    ? i * sizeof(uint16_t)
                      : chunk->v_type == KV_Q8_0 ? i
                                                 : i / 2;
    return (source){.at = bytes_from(chunk->v, at),
                    .stride = n,
                    .scales =
                        kv_scales(chunk->v_type, chunk->v, n) + j * n_blocks + d / KV_BLOCK_DIM,
                    .scale_stride = n_blocks,
                    .next = bytes_from(chunk->next_v, at)};
}

/* A slab of keys, channel by channel. */
VEC_INLINE void convert_keys(form as, source k, size_t head_dim, float (*to)[SLAB]) {
    for (size_t d = 0; d < head_dim; d++) {
        fetch(as, &k, d * k.stride);
        for (size_t j = 0; j < SLAB; j += 8) {
            __m256 x = load_keys(as, &k, d, j);
            if (has_scales(as)) x = _mm256_mul_ps(x, key_scales(&k, d, j));
            _mm256_storeu_ps(to[d] + j, x);
        }
    }
}

/* n_dims channels of n values. */
VEC_INLINE void convert_values(form as, source v, size_t n, size_t n_dims, float (*to)[SLAB]) {
    for (size_t j = 0; j < n; j++) {
        fetch(as, &v, j * v.stride);
        for (size_t d = 0; d < n_dims; d += 8) {
            __m256 x = load_values(as, &v, j, d);
            if (has_scales(as)) x = _mm256_mul_ps(x, value_scale(&v, j));
            _mm256_storeu_ps(to[j] + d, x);
        }
    }
}

/* p[r][8 v ...] = scale * q[r] . keys, for n_rows rows and 8 * n_vectors keys at k. */
VEC_INLINE void score_tile(form as, int n_rows, int n_vectors, source k, size_t head_dim,
                           const float *q, size_t q_stride, float scale, float (*p)[KERNELS_CHUNK],
                           size_t key) {
    __m256 sums[TILE_ROWS][CHAINS];
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 8
        for (int v = 0; v < n_vectors; v++) sums[r][v] = _mm256_setzero_ps();
    }
    const size_t span = has_scales(as) ? KV_BLOCK_DIM : head_dim; /* channels of one scale */
    for (size_t start = 0; start < head_dim; start += span) {
        __m256 scales[CHAINS];
#pragma GCC unroll 8
        for (int v = 0; v < n_vectors; v++) {
            if (has_scales(as)) scales[v] = key_scales(&k, start, 8 * (size_t)v);
        }
        const size_t end = start + span < head_dim ? start + span : head_dim;
        for (size_t d = start; d < end; d++) {
            fetch(as, &k, d * k.stride);
            __m256 keys[CHAINS];
#pragma GCC unroll 8
            for (int v = 0; v < n_vectors; v++) {
                keys[v] = load_keys(as, &k, d, 8 * (size_t)v);
                if (has_scales(as)) keys[v] = _mm256_mul_ps(keys[v], scales[v]);
            }
#pragma GCC unroll 4
            for (int r = 0; r < n_rows; r++) {
                __m256 x = _mm256_broadcast_ss(q + (size_t)r * q_stride + d);
#pragma GCC unroll 8
                for (int v = 0; v < n_vectors; v++) {
                    sums[r][v] = _mm256_fmadd_ps(x, keys[v], sums[r][v]);
                }
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 8
        for (int v = 0; v < n_vectors; v++) {
            __m256 s = _mm256_mul_ps(sums[r][v], _mm256_set1_ps(scale));
            _mm256_storeu_ps(p[r] + key + 8 * v, s);
        }
    }
}

VEC_INLINE void score_rows(form as, size_t n_rows, source k, size_t head_dim, const float *q,
                           size_t q_stride, float scale, float (*p)[KERNELS_CHUNK], size_t key) {
    switch (n_rows) {
    case 1:
        score_tile(as, 1, 2, k, head_dim, q, q_stride, scale, p, key);
        break;
    case 2:
        score_tile(as, 2, 2, k, head_dim, q, q_stride, scale, p, key);
        break;
    case 3:
        score_tile(as, 3, 2, k, head_dim, q, q_stride, scale, p, key);
        break;
    default:
        score_tile(as, 4, 2, k, head_dim, q, q_stride, scale, p, key);
        break;
    }
}

/* Lanes of 8 positions from j that lie in [first, last). */
VEC_INLINE __m256 visible(size_t j, size_t first, size_t last) {
    __m256i at =
        _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32((int)j));
    __m256i in = _mm256_and_si256(_mm256_cmpgt_epi32(at, _mm256_set1_epi32((int)first - 1)),
                                  _mm256_cmpgt_epi32(_mm256_set1_epi32((int)last), at));
    return _mm256_castsi256_ps(in);
}

static float largest(const float *s, size_t first, size_t last) {
    const __m256 lowest = _mm256_set1_ps(-INFINITY);
    __m256 m = lowest;
    for (size_t j = first / 8 * 8; j < last; j += 8) {
        __m256 x = _mm256_loadu_ps(s + j);
        m = _mm256_max_ps(m, _mm256_blendv_ps(lowest, x, visible(j, first, last)));
    }
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    float top = _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
    if (top == 0) { /* of zeros with different signs the first one counts */
        while (s[first] != 0) first++;
        top = s[first];
    }
    return top;
}

/* Scores become exponentials in place. */
static void softmax(float *p, size_t first, size_t last, attend_state *state) {
    state->m = largest(p, first, last);
    const __m256 m = _mm256_set1_ps(state->m);
    __m256 lanes[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t j = first / 8 * 8; j < last; j += 8) {
        __m256 e = vec_exp(_mm256_sub_ps(_mm256_loadu_ps(p + j), m));
        _mm256_storeu_ps(p + j, e);
        __m256 *lane = &lanes[j / 8 % 2];
        *lane = _mm256_add_ps(*lane, _mm256_and_ps(e, visible(j, first, last)));
    }
    state->l = vec_tree16(lanes);
}

/* o[r][d ...] += p[r][j] * v[j], j in [first, last) ascending, for 8 * n_vectors dimensions. */
VEC_INLINE void value_tile(form as, int n_rows, int n_vectors, source v, const float *p,
                           size_t first, size_t last, const attend_state *state, size_t dim) {
    __m256 sums[TILE_ROWS][CHAINS];
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 8
        for (int i = 0; i < n_vectors; i++) sums[r][i] = _mm256_loadu_ps(state[r].o + dim + 8 * i);
    }
    for (size_t j = first; j < last; j++) {
        fetch(as, &v, j * v.stride);
        __m256 values[CHAINS];
#pragma GCC unroll 8
        for (int i = 0; i < n_vectors; i++) {
            values[i] = load_values(as, &v, j, 8 * (size_t)i);
            if (has_scales(as)) values[i] = _mm256_mul_ps(values[i], value_scale(&v, j));
        }
#pragma GCC unroll 4
        for (int r = 0; r < n_rows; r++) {
            __m256 x = _mm256_broadcast_ss(p + r * KERNELS_CHUNK + (ptrdiff_t)j);
#pragma GCC unroll 8
            for (int i = 0; i < n_vectors; i++) {
                sums[r][i] = _mm256_fmadd_ps(x, values[i], sums[r][i]);
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 8
        for (int i = 0; i < n_vectors; i++) _mm256_storeu_ps(state[r].o + dim + 8 * i, sums[r][i]);
    }
}

/* The same for up to SLAB dimensions from dim. */
VEC_INLINE void value_rows(form as, size_t n_rows, size_t n_dims, source v, const float *p,
                           size_t first, size_t last, const attend_state *state, size_t dim) {
    if (first >= last) return;
    if (n_dims < SLAB) {
        for (size_t r = 0; r < n_rows; r++) {
            value_tile(as, 1, 1, v, p + r * KERNELS_CHUNK, first, last, state + r, dim);
        }
        return;
    }
    switch (n_rows) {
    case 1:
        value_tile(as, 1, 2, v, p, first, last, state, dim);
        break;
    case 2:
        value_tile(as, 2, 2, v, p, first, last, state, dim);
        break;
    case 3:
        value_tile(as, 3, 2, v, p, first, last, state, dim);
        break;
    default:
        value_tile(as, 4, 2, v, p, first, last, state, dim);
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
        size_t end = last[r] < from ? last[r] : from;
        value_rows(as, 1, n_dims, v, p + r * KERNELS_CHUNK, first[r], end, state + r, dim);
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
        size_t n_dims = head_dim - d < SLAB ? head_dim - d : SLAB;
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
            size_t n = n_rows - r < TILE_ROWS ? n_rows - r : TILE_ROWS;
            if (!sees(first + r, last + r, n, key)) continue;
            score_rows(F32, n, k, head_dim, q + r * q_stride, q_stride, scale, s->p + r, key);
        }
    }
    for (size_t r = 0; r < n_rows; r++) softmax(s->p[r], first[r], last[r], &state[r]);
    for (size_t d = 0; d < head_dim; d += SLAB) {
        size_t n_dims = head_dim - d < SLAB ? head_dim - d : SLAB;
#define X(form)                                                                                    \
    if (v_form == form)                                                                            \
        convert_values(form, values_at(chunk, key0, d), key1 - key0, n_dims, s->v + key0);
        STORED(X)
#undef X
        for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
            size_t n = n_rows - r < TILE_ROWS ? n_rows - r : TILE_ROWS;
            value_ranges(F32, n, n_dims, v, s->p[r], first + r, last + r, state + r, d);
        }
    }
}

size_t avx2_attend_scratch(size_t head_dim, size_t n_rows) {
    if (n_rows <= TILE_ROWS) return sizeof(attend_scratch); /* only p */
    return sizeof(attend_scratch) + head_dim * SLAB * sizeof(float);
}

void avx2_attend(const attend_chunk *chunk, const float *q, size_t q_stride, size_t n_rows,
                 float scale, const uint8_t *first, const uint8_t *last, attend_state *state,
                 void *scratch) {
    attend_scratch *s = scratch;
    assert(avx2_attend_scratch(chunk->head_dim, n_rows) <= KERNELS_SCRATCH_BYTES);
    for (size_t r0 = 0; r0 < n_rows; r0 += BLOCK_ROWS) {
        size_t n = n_rows - r0 < BLOCK_ROWS ? n_rows - r0 : BLOCK_ROWS;
        size_t key0 = KERNELS_CHUNK, key1 = 0; /* what any row sees, in whole slabs */
        for (size_t r = r0; r < r0 + n; r++) {
            key0 = first[r] < key0 ? first[r] : key0;
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

void avx2_attend_merge(attend_state *into, const attend_state *from, size_t head_dim) {
    const float m = from->m > into->m ? from->m : into->m;
    const __m256 scale_into = vec_exp(_mm256_set1_ps(into->m - m));
    const __m256 scale_from = vec_exp(_mm256_set1_ps(from->m - m));
    const float a = _mm256_cvtss_f32(scale_into), b = _mm256_cvtss_f32(scale_from);
    into->m = m;
    into->l = fmaf(from->l, b, into->l * a);
    for (size_t d = 0; d < head_dim; d += 8) {
        __m256 o = _mm256_mul_ps(_mm256_loadu_ps(into->o + d), scale_into);
        o = _mm256_fmadd_ps(_mm256_loadu_ps(from->o + d), scale_from, o);
        _mm256_storeu_ps(into->o + d, o);
    }
}
