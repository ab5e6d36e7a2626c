/* avx512_attend: query rows over one chunk of keys and values.
 *
 * Keys lie beside each other for one dimension, so the 64 keys of a chunk are the lanes of four
 * registers and no score needs a sum across lanes; values are the lanes of the result. Both passes
 * work on blocks of up to four rows and four registers, sixteen chains of fmaf at once. With few
 * rows every key and value is converted to f32 on its way; with many, all of them are converted
 * first and met by all rows. How many are many is the processor's and the type's.
 *
 * The chunks of a context lie far apart in memory, and the processor's own prefetching finds none
 * of them in time. So while a chunk is being computed the next one is asked for, its keys with this
 * one's keys and its values with this one's values: on Zen 4 out of memory 2.2 times as fast with
 * F16, twice with Q8_0.
 */
#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/attend_forms.h"
#include "kernels/avx512/avx512_kernels.h"
#include "kernels/avx512/avx512_vec.h"

enum {
    VECS = 4, /* registers of a block of scores, or of results */
    LANES = VECS * VEC_DIM,
    LINE = 64, /* bytes of a cache line */
};

static_assert((int)LANES == (int)KERNELS_CHUNK, "a block of scores has the keys of a chunk");

/* Query rows of one call, SHARING_ROWS at most, and where their chunk's numbers lie. Strides count
 * elements. */
typedef struct attention {
    const void *k;               /* [k_dim][KERNELS_CHUNK] */
    const void *v;               /* [KERNELS_CHUNK][v_stride] */
    const uint16_t *k_scales;    /* [blocks of k_dim][KERNELS_CHUNK], where it has them */
    const float *v_scales;       /* [KERNELS_CHUNK][n_v_blocks], likewise, converted */
    const void *next_k, *next_v; /* as attend_chunk's */
    size_t v_stride, k_dim, v_dim, n_v_blocks;
    const float *q; /* [n_rows][q_stride] */
    size_t q_stride, n_rows;
    float scale;
    const uint8_t *first, *last; /* [n_rows] */
    attend_state *state;         /* [n_rows] */
    float (*p)[KERNELS_CHUNK];   /* [n_rows] scores, then their exponentials */
} attention;

/* Element i of what is stored at `from`, i even. */
VEC_INLINE const void *element(form as, const void *from, size_t i) {
    static const size_t bytes[N_FORMS] = {[F32] = 4, [F16] = 2, [Q8] = 1};
    return (const char *)from + (as == Q4 ? i / 2 : i * bytes[as]);
}

/* The lanes `m` of 16 numbers at `from`; of Q8, the codes. */
VEC_INLINE __m512 load(form as, const void *from, __mmask16 m) {
    if (as == F32) return _mm512_maskz_loadu_ps(m, from);
    if (as == F16) return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, from));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(m, from)));
}

/* What a u4 stands for; of the lanes of `codes` the lowest four bits count. */
VEC_INLINE __m512 number_of_q4(__m512i codes) {
    const __m512 numbers = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    return _mm512_permutexvar_ps(codes, numbers);
}

/* Channel d of 16 keys; of Q8 and Q4, the codes. */
VEC_INLINE __m512 load_keys(form as, const attention *a, size_t d, size_t key) {
    if (as != Q4) return load(as, element(as, a->k, d * KERNELS_CHUNK + key), 0xffff);
    const uint8_t *pairs = (const uint8_t *)a->k + d / 2 * KERNELS_CHUNK + key;
    __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)pairs));
    return number_of_q4(_mm512_srl_epi32(codes, _mm_cvtsi32_si128((int)(d % 2 * 4))));
}

/* The lanes m of 16 channels of a value at `from`; of Q8 and Q4, the codes. */
VEC_INLINE __m512 load_values(form as, const void *from, __mmask16 m) {
    if (as != Q4) return load(as, from, m);
    __mmask16 m_pairs = m == 0xffff ? 0xff : 0xf; /* lanes come in eights */
    __m128i pairs = _mm_maskz_loadu_epi8(m_pairs, from);
    __m512i low = _mm512_cvtepu8_epi64(pairs); /* a lane of 64 bits for two of 32 */
    return number_of_q4(_mm512_or_si512(low, _mm512_slli_epi64(low, 28)));
}

/* The scales of 16 keys in the block of channel d. */
VEC_INLINE __m512 key_scales(const attention *a, size_t d, size_t key) {
    const uint16_t *scales = a->k_scales + d / KV_BLOCK_DIM * KERNELS_CHUNK + key;
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)scales));
}

/* The scale of block i of value j. */
VEC_INLINE __m512 value_scale(const attention *a, size_t j, size_t i) {
    return _mm512_set1_ps(a->v_scales[j * a->n_v_blocks + i]);
}

/* ---- the chunk that comes next -------------------------------------------------------------- */

/* Asks for part i of as many as it has channels of its keys or values: into L2, as two chunks are
 * more than L1 has room for. */
VEC_INLINE void fetch(form as, const void *next, size_t i) {
    if (as == F32 || next == NULL) return;
    const char *part = element(as, next, i * KERNELS_CHUNK);
    _mm_prefetch(part, _MM_HINT_T1);
    if (as == F16) _mm_prefetch(part + LINE, _MM_HINT_T1);
}

VEC_INLINE void fetch_scales(form as, size_t n_channels, const void *next) {
    if (!has_scales(as) || next == NULL) return;
    const char *scales = element(as, next, n_channels * KERNELS_CHUNK);
    const size_t n_bytes = kv_n_blocks(n_channels) * KERNELS_CHUNK * sizeof(uint16_t);
    for (size_t i = 0; i < n_bytes; i += LINE) _mm_prefetch(scales + i, _MM_HINT_T1);
}

/* ---- scores -------------------------------------------------------------------------------- */

/* p[row ...][key ...] = scale * q . keys, for n_rows rows and 16 * n_vectors keys. */
VEC_INLINE void score_block(form as, int n_rows, int n_vectors, const attention *a, size_t row,
                            size_t key) {
    const float *q = a->q + row * a->q_stride;
    const void *next = row == 0 ? a->next_k : NULL; /* once is enough */
    __m512 sums[ROWS][VECS];
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 4
        for (int v = 0; v < n_vectors; v++) sums[r][v] = _mm512_setzero_ps();
    }
    const size_t span = has_scales(as) ? KV_BLOCK_DIM : a->k_dim; /* channels of one scale */
    for (size_t start = 0; start < a->k_dim; start += span) {
        __m512 scales[VECS];
#pragma GCC unroll 4
        for (size_t v = 0; v < (size_t)n_vectors; v++) {
            if (has_scales(as)) scales[v] = key_scales(a, start, key + VEC_DIM * v);
        }
        const size_t end = start + span < a->k_dim ? start + span : a->k_dim;
        for (size_t d = start; d < end; d++) {
            if (n_vectors == VECS) fetch(as, next, d);
            __m512 keys[VECS];
#pragma GCC unroll 4
            for (size_t v = 0; v < (size_t)n_vectors; v++) {
                keys[v] = load_keys(as, a, d, key + VEC_DIM * v);
                if (has_scales(as)) keys[v] = _mm512_mul_ps(keys[v], scales[v]);
            }
#pragma GCC unroll 4
            for (size_t r = 0; r < (size_t)n_rows; r++) {
                __m512 x = _mm512_set1_ps(q[r * a->q_stride + d]);
#pragma GCC unroll 4
                for (int v = 0; v < n_vectors; v++) {
                    sums[r][v] = _mm512_fmadd_ps(x, keys[v], sums[r][v]);
                }
            }
        }
    }
    const __m512 scale = _mm512_set1_ps(a->scale);
#pragma GCC unroll 4
    for (size_t r = 0; r < (size_t)n_rows; r++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < (size_t)n_vectors; v++) {
            _mm512_storeu_ps(a->p[row + r] + key + VEC_DIM * v, _mm512_mul_ps(sums[r][v], scale));
        }
    }
}

VEC_INLINE void score_rows(form as, int n_vectors, const attention *a, size_t key) {
    size_t r = 0;
#define SCORE(n) score_block(as, n, n_vectors, a, r, key)
    for (; r + ROWS <= a->n_rows; r += ROWS) SCORE(ROWS);
    WITH_CONSTANT_REST(a->n_rows - r, SCORE)
#undef SCORE
}

/* ---- softmax ------------------------------------------------------------------------------- */

static uint64_t visible_keys(const attention *a, size_t row) {
    const size_t first = a->first[row], last = a->last[row];
    return UINT64_MAX >> (KERNELS_CHUNK - (last - first)) << first;
}

/* The first of the largest of the visible scores: of zeros with different signs the first counts.
 */
static float largest(const float *s, uint64_t visible, size_t first) {
    __m512 m = _mm512_set1_ps(-INFINITY);
    for (size_t v = 0; v < VECS; v++) {
        __mmask16 seen = (__mmask16)(visible >> VEC_DIM * v);
        m = _mm512_mask_max_ps(m, seen, m, _mm512_loadu_ps(s + VEC_DIM * v));
    }
    float top = _mm512_reduce_max_ps(m);
    if (top == 0) {
        while (s[first] != 0) first++;
        top = s[first];
    }
    return top;
}

/* Scores become exponentials in place; those of positions out of sight are left undefined. */
static void exponentials(float *p, uint64_t visible, attend_state *state) {
    const __m512 m = _mm512_set1_ps(state->m);
    __m512 lanes = _mm512_setzero_ps();
    for (size_t v = 0; v < VECS; v++) {
        __mmask16 seen = (__mmask16)(visible >> VEC_DIM * v);
        if (!seen) continue;
        __m512 e = vec_exp(_mm512_sub_ps(_mm512_loadu_ps(p + VEC_DIM * v), m));
        _mm512_storeu_ps(p + VEC_DIM * v, e);
        lanes = _mm512_mask_add_ps(lanes, seen, lanes, e);
    }
    state->l = vec_tree16(&lanes);
}

/* All maxima first: within a row one thing waits for the other, but rows do not wait for rows. */
static void softmax(const attention *a) {
    for (size_t r = 0; r < a->n_rows; r++)
        a->state[r].m = largest(a->p[r], visible_keys(a, r), a->first[r]);
    for (size_t r = 0; r < a->n_rows; r++) exponentials(a->p[r], visible_keys(a, r), &a->state[r]);
}

/* ---- values -------------------------------------------------------------------------------- */

/* o[row ...][dim ...] += p[row ...][j] * v[j], j in [first, last) ascending, for 16 * n_vectors
 * dimensions, or the lanes m of a single vector. */
VEC_INLINE void value_block(form as, int n_rows, int n_vectors, const attention *a, size_t row,
                            size_t first, size_t last, size_t dim, __mmask16 m) {
    const void *next = row == 0 ? a->next_v : NULL;
    __m512 sums[ROWS][VECS];
#pragma GCC unroll 4
    for (size_t r = 0; r < (size_t)n_rows; r++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < (size_t)n_vectors; v++) {
            sums[r][v] = _mm512_maskz_loadu_ps(m, a->state[row + r].o + dim + VEC_DIM * v);
        }
    }
    for (size_t j = first; j < last; j++) {
        const void *from = element(as, a->v, j * a->v_stride + dim);
        if (n_vectors == VECS) fetch(as, next, dim + j);
        __m512 values[VECS];
#pragma GCC unroll 4
        for (size_t v = 0; v < (size_t)n_vectors; v++) {
            values[v] = load_values(as, element(as, from, VEC_DIM * v), m);
            if (!has_scales(as)) continue;
            /* dim is a multiple of KV_BLOCK_DIM where there is more than one register */
            values[v] = _mm512_mul_ps(values[v], value_scale(a, j, dim / KV_BLOCK_DIM + v / 2));
        }
#pragma GCC unroll 4
        for (size_t r = 0; r < (size_t)n_rows; r++) {
            __m512 x = _mm512_set1_ps(a->p[row + r][j]);
#pragma GCC unroll 4
            for (int v = 0; v < n_vectors; v++) {
                sums[r][v] = _mm512_fmadd_ps(x, values[v], sums[r][v]);
            }
        }
    }
#pragma GCC unroll 4
    for (size_t r = 0; r < (size_t)n_rows; r++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < (size_t)n_vectors; v++) {
            _mm512_mask_storeu_ps(a->state[row + r].o + dim + VEC_DIM * v, m, sums[r][v]);
        }
    }
}

/* The same for all dimensions. */
VEC_INLINE void value_dims(form as, int n_rows, const attention *a, size_t row, size_t first,
                           size_t last) {
    if (first >= last) return;
    size_t dim = 0;
    for (; dim + LANES <= a->v_dim; dim += LANES) {
        value_block(as, n_rows, VECS, a, row, first, last, dim, 0xffff);
    }
    for (; dim < a->v_dim; dim += VEC_DIM) {
        value_block(as, n_rows, 1, a, row, first, last, dim, lanes_below(a->v_dim - dim));
    }
}

/* Rows see different positions: together where all of them see, each alone before and after. */
VEC_INLINE void value_ranges(form as, int n_rows, const attention *a, size_t row) {
    size_t from = 0, to = KERNELS_CHUNK;
    for (size_t r = row; r < row + (size_t)n_rows; r++) {
        from = a->first[r] > from ? a->first[r] : from;
        to = a->last[r] < to ? a->last[r] : to;
    }
    if (from > to) from = to = KERNELS_CHUNK; /* nothing in common */
    for (size_t r = row; r < row + (size_t)n_rows; r++) {
        size_t end = a->last[r] < from ? a->last[r] : from;
        value_dims(as, 1, a, r, a->first[r], end);
    }
    value_dims(as, n_rows, a, row, from, to);
    for (size_t r = row; r < row + (size_t)n_rows; r++) {
        value_dims(as, 1, a, r, to, a->last[r]);
    }
}

VEC_INLINE void value_rows(form as, const attention *a) {
    size_t r = 0;
#define VALUES(n) value_ranges(as, n, a, r)
    for (; r + ROWS <= a->n_rows; r += ROWS) VALUES(ROWS);
    WITH_CONSTANT_REST(a->n_rows - r, VALUES)
#undef VALUES
}

/* ---- all rows ------------------------------------------------------------------------------ */

/* Keys [key0, key1) in multiples of 16; up to 16 of them are one register instead of four. */
VEC_INLINE void score_keys(form as, const attention *a, size_t key0, size_t key1) {
    if (key1 - key0 <= VEC_DIM) {
        score_rows(as, 1, a, key0);
    } else {
        score_rows(as, VECS, a, 0);
    }
}

/* One function for each form. */
#define FORMS(X) X(F32) STORED(X)
#define X(form)                                                                                    \
    static void score_##form(const attention *a, size_t key0, size_t key1) {                       \
        fetch_scales(form, a->k_dim, a->next_k);                                                   \
        score_keys(form, a, key0, key1);                                                           \
    }                                                                                              \
    static void value_##form(const attention *a) {                                                 \
        fetch_scales(form, a->v_dim, a->next_v);                                                   \
        value_rows(form, a);                                                                       \
    }
FORMS(X)
#undef X

static void attend_rows(form k, form v, const attention *a, size_t key0, size_t key1) {
#define X(form) [form] = score_##form,
    static void (*const score[N_FORMS])(const attention *, size_t, size_t) = {FORMS(X)};
#undef X
#define X(form) [form] = value_##form,
    static void (*const value[N_FORMS])(const attention *) = {FORMS(X)};
#undef X
    score[k](a, key0, key1);
    softmax(a);
    for (size_t r = 0; r < a->n_rows; r++) memset(a->state[r].o, 0, a->v_dim * sizeof(float));
    value[v](a);
}

/* ---- conversion ---------------------------------------------------------------------------- */

VEC_INLINE void convert_keys(form as, const attention *a, float *to) {
    for (size_t d = 0; d < a->k_dim; d++) {
        fetch(as, a->next_k, d);
        for (size_t j = 0; j < KERNELS_CHUNK; j += VEC_DIM) {
            __m512 x = load_keys(as, a, d, j);
            if (has_scales(as)) x = _mm512_mul_ps(x, key_scales(a, d, j));
            _mm512_storeu_ps(to + d * KERNELS_CHUNK + j, x);
        }
    }
}

/* In rows of 16s. */
VEC_INLINE void convert_values(form as, const attention *a, float *to, size_t to_stride) {
    for (size_t j = 0; j < KERNELS_CHUNK; j++) {
        for (size_t i = j; i < a->v_dim; i += KERNELS_CHUNK) fetch(as, a->next_v, i);
        for (size_t d = 0; d < a->v_dim; d += VEC_DIM) {
            const void *from = element(as, a->v, j * a->v_stride + d);
            __m512 x = load_values(as, from, lanes_below(a->v_dim - d));
            if (has_scales(as)) x = _mm512_mul_ps(x, value_scale(a, j, d / KV_BLOCK_DIM));
            _mm512_storeu_ps(to + j * to_stride + d, x);
        }
    }
}

/* The scales of the chunk's values, in registers of 16: with a KERNELS_CHUNK of them for each block
 * there is no tail. */
static void convert_scales(const uint16_t *scales, size_t n_blocks, float *to) {
    for (size_t i = 0; i < n_blocks * KERNELS_CHUNK; i += VEC_DIM)
        _mm512_storeu_ps(to + i, load(F16, scales + i, 0xffff));
}

/* Converts the keys of a into memory, which a then reads. */
static void convert_chunk_keys(form k, attention *a, float *memory) {
#define X(form)                                                                                    \
    if (k == form) convert_keys(form, a, memory);
    FORMS(X)
#undef X
    a->k = memory;
}

/* The values likewise. */
static void convert_chunk_values(form v, attention *a, float *memory) {
    const size_t stride = (a->v_dim + VEC_DIM - 1) / VEC_DIM * VEC_DIM;
#define X(form)                                                                                    \
    if (v == form) convert_values(form, a, memory, stride);
    FORMS(X)
#undef X
    a->v = memory;
    a->v_stride = stride;
}

/* Scratch holds the scales of values, the scores of SHARING_ROWS rows, and, for many rows, the
 * chunk as floats. */
static size_t all_bytes(size_t k_dim, size_t v_dim) {
    return (kv_n_blocks(v_dim) + SHARING_ROWS + k_dim + v_dim + VEC_DIM) * KERNELS_CHUNK *
           sizeof(float);
}

static bool has_room(size_t k_dim, size_t v_dim) {
    return all_bytes(k_dim, v_dim) <= KERNELS_SCRATCH_BYTES;
}

size_t avx512_attend_scratch(size_t k_dim, size_t v_dim, size_t n_rows) {
    if (n_rows > ROWS && has_room(k_dim, v_dim)) return all_bytes(k_dim, v_dim);
    const size_t n = n_rows < SHARING_ROWS ? n_rows : SHARING_ROWS;
    return (kv_n_blocks(v_dim) + n) * KERNELS_CHUNK * sizeof(float);
}

void avx512_attend_direct(const size_t most_direct[KV_TYPE_COUNT], const attend_chunk *chunk,
                          const float *q, size_t q_stride, size_t n_rows, float scale,
                          const uint8_t *first, const uint8_t *last, attend_state *state,
                          void *scratch) {
    const size_t k_dim = chunk->k_dim, v_dim = chunk->v_dim, n_v_blocks = kv_n_blocks(v_dim);
    float *const v_scales = scratch, *const scores = v_scales + n_v_blocks * KERNELS_CHUNK;
    float *const converted = scores + (size_t)SHARING_ROWS * KERNELS_CHUNK;
    form k = form_of[chunk->k_type], v = form_of[chunk->v_type];
    attention a = {.k = chunk->k,
                   .v = chunk->v,
                   .k_scales = kv_scales(chunk->k_type, chunk->k, k_dim),
                   .v_scales = v_scales,
                   .next_k = chunk->next_k,
                   .next_v = chunk->next_v,
                   .v_stride = v_dim,
                   .k_dim = k_dim,
                   .v_dim = v_dim,
                   .n_v_blocks = n_v_blocks,
                   .q_stride = q_stride,
                   .scale = scale,
                   .p = (float (*)[KERNELS_CHUNK])scores};
    const bool can_convert = has_room(k_dim, v_dim);
    if (has_scales(v))
        convert_scales(kv_scales(chunk->v_type, chunk->v, v_dim), n_v_blocks, v_scales);
    if (can_convert && n_rows > most_direct[chunk->k_type]) {
        convert_chunk_keys(k, &a, converted);
        k = F32;
    }
    if (can_convert && n_rows > most_direct[chunk->v_type]) {
        convert_chunk_values(v, &a, converted + k_dim * KERNELS_CHUNK);
        v = F32;
    }
    for (size_t r0 = 0; r0 < n_rows; r0 += SHARING_ROWS) {
        a.q = q + r0 * q_stride;
        a.n_rows = n_rows - r0 < SHARING_ROWS ? n_rows - r0 : SHARING_ROWS;
        a.first = first + r0;
        a.last = last + r0;
        a.state = state + r0;
        size_t key0 = KERNELS_CHUNK, key1 = 0; /* what any row sees, in whole registers */
        for (size_t r = 0; r < a.n_rows; r++) {
            key0 = a.first[r] < key0 ? a.first[r] : key0;
            key1 = a.last[r] > key1 ? a.last[r] : key1;
        }
        key0 = key0 / VEC_DIM * VEC_DIM;
        key1 = (key1 + VEC_DIM - 1) / VEC_DIM * VEC_DIM;
        attend_rows(k, v, &a, key0, key1);
    }
}

void avx512_attend(const attend_chunk *chunk, const float *q, size_t q_stride, size_t n_rows,
                   float scale, const uint8_t *first, const uint8_t *last, attend_state *state,
                   void *scratch) {
    static const size_t most_direct[KV_TYPE_COUNT] = {ROWS, ROWS, ROWS};
    avx512_attend_direct(most_direct, chunk, q, q_stride, n_rows, scale, first, last, state,
                         scratch);
}

void avx512_attend_merge(attend_state *into, const attend_state *from, size_t v_dim) {
    const float m = from->m > into->m ? from->m : into->m;
    const __m512 scale_into = vec_exp(_mm512_set1_ps(into->m - m));
    const __m512 scale_from = vec_exp(_mm512_set1_ps(from->m - m));
    const float a = _mm_cvtss_f32(_mm512_castps512_ps128(scale_into));
    const float b = _mm_cvtss_f32(_mm512_castps512_ps128(scale_from));
    into->m = m;
    into->l = fmaf(from->l, b, into->l * a);
    for (size_t d = 0; d < v_dim; d += VEC_DIM) {
        __mmask16 seen = lanes_below(v_dim - d);
        __m512 o = _mm512_mul_ps(_mm512_maskz_loadu_ps(seen, into->o + d), scale_into);
        o = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(seen, from->o + d), scale_from, o);
        _mm512_mask_storeu_ps(into->o + d, seen, o);
    }
}
