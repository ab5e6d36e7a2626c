/* attend_rows: attention of query rows over one chunk of keys and values, a slab of 16 keys or
 * dimensions at a time; AVX2 and NEON compute it so.
 *
 * Keys lie beside each other for one dimension, so the scores of some keys are the lanes of a
 * register and no score needs a sum across lanes; values are the lanes of the result. Both passes
 * work on blocks of up to four rows and a slab, eight or sixteen chains of fmaf at once. With few
 * rows every key and value is converted to f32 once on its way; with many, a slab of them is
 * converted first and met by all rows.
 *
 * The chunks of a context lie far apart in memory, where the processor's own prefetching does not
 * find the next in time. So with every piece that is read the same piece of the next chunk is asked
 * for.
 *
 * Included by the *_attend.c of an instruction set, behind its vec.h and
 *   VEC_KERNEL(name)                      the name of a kernel of this set
 *   vec_where_seen(j, first, last, x, y)  lane i: position j + i in [first, last) ? x : y
 *   load_q8(from, n, to)                  n registers of codes at `from`; n is 8 / VEC_DIM or VECS
 *   load_q4_keys(from, d, n, to)          those of channel d, of pairs of channels at `from`
 *   load_q4_values(from, n, to)           those of one value, of pairs of its channels at `from`
 */
#ifndef LL_KERNELS_ATTEND_ROWS_H
#define LL_KERNELS_ATTEND_ROWS_H

#include <assert.h>
#include <math.h>
#include <stdbool.h>

#include "kernels/attend_forms.h"
#include "kernels/kernels.h"

enum {
    SLAB = 16,             /* keys, or dimensions of values, of a block of scores or results */
    VECS = SLAB / VEC_DIM, /* registers of a slab */
    HALF = 8 / VEC_DIM,    /* registers of 8 dimensions, which heads are multiples of */
};

/* What lies in scratch. */
typedef struct attend_scratch {
    float p[SHARING_ROWS][KERNELS_CHUNK]; /* scores, then their exponentials */
    float v[KERNELS_CHUNK][SLAB];
    float k[][SLAB]; /* [k_dim] */
} attend_scratch;

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* ---- where keys and values lie --------------------------------------------------------------- */

/* The keys or values of a slab, from its first lane on. */
typedef struct source {
    const void *at;
    size_t stride;          /* elements from a channel of keys, or a value, to the next; of Q4 keys,
                             * bytes from two channels to the next two */
    const uint16_t *scales; /* of Q8 and Q4 */
    size_t scale_stride;    /* from a block of keys, or a value, to the next */
    const void *next;       /* the same place in the chunk that comes next; NULL: none */
} source;

/* Asks for element i of the next chunk: into L2, as two chunks are more than L1 has room for. */
VEC_INLINE void fetch(form as, const source *s, size_t i) {
    if (as == F32 || s->next == NULL) return;
    const size_t at = as == F16 ? i * sizeof(uint16_t) : as == Q8 ? i : i / 2;
    __builtin_prefetch((const char *)s->next + at, 0, 2);
}

static const void *bytes_from(const void *start, size_t n_bytes) {
    return start == NULL ? NULL : (const char *)start + n_bytes;
}

/* Keys from `key` on, and values from position j and channel d on. */
static source keys_at(const attend_chunk *chunk, size_t key) {
    const size_t at = key * (chunk->k_type == KV_F16 ? sizeof(uint16_t) : sizeof(uint8_t));
    return (source){.at = bytes_from(chunk->k, at),
                    .stride = KERNELS_CHUNK,
                    .scales = kv_scales(chunk->k_type, chunk->k, chunk->k_dim) + key,
                    .scale_stride = KERNELS_CHUNK,
                    .next = bytes_from(chunk->next_k, at)};
}

static source values_at(const attend_chunk *chunk, size_t j, size_t d) {
    const size_t n = chunk->v_dim, n_blocks = kv_n_blocks(n), i = j * n + d;
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

/* ---- loading them ---------------------------------------------------------------------------- */

/* n registers from element i; of Q8, the codes. */
VEC_INLINE void load_numbers(form as, const void *from, size_t i, size_t n, vec *to) {
    if (as == Q8) {
        load_q8((const int8_t *)from + i, n, to);
        return;
    }
#pragma GCC unroll 4
    for (size_t v = 0; v < n; v++) {
        const size_t at = i + VEC_DIM * v;
        to[v] = as == F32 ? vec_load((const float *)from + at)
                          : vec_load_f16((const uint16_t *)from + at);
    }
}

/* Channel d of a slab of keys; of Q8 and Q4, the codes. */
VEC_INLINE void load_keys(form as, const source *k, size_t d, vec to[VECS]) {
    if (as == Q4) {
        load_q4_keys((const uint8_t *)k->at + d / 2 * k->stride, d, VECS, to);
    } else {
        load_numbers(as, k->at, d * k->stride, VECS, to);
    }
}

/* n registers of channels of value j from d on; of Q8 and Q4, the codes. */
VEC_INLINE void load_values(form as, const source *v, size_t j, size_t d, size_t n, vec *to) {
    const size_t i = j * v->stride + d;
    if (as == Q4) {
        load_q4_values((const uint8_t *)v->at + i / 2, n, to);
    } else {
        load_numbers(as, v->at, i, n, to);
    }
}

/* The scales of register i of a slab of keys, in the block of channel d. */
VEC_INLINE vec key_scales(const source *k, size_t d, size_t i) {
    return vec_load_f16(k->scales + d / KV_BLOCK_DIM * k->scale_stride + VEC_DIM * i);
}

VEC_INLINE vec value_scale(const source *v, size_t j) {
    return vec_all_f16(v->scales[j * v->scale_stride]);
}

/* A slab of keys, channel by channel. */
VEC_INLINE void convert_keys(form as, source k, size_t k_dim, float (*to)[SLAB]) {
    for (size_t d = 0; d < k_dim; d++) {
        fetch(as, &k, d * k.stride);
        vec x[VECS];
        load_keys(as, &k, d, x);
#pragma GCC unroll 4
        for (size_t v = 0; v < VECS; v++) {
            if (has_scales(as)) x[v] = vec_mul(x[v], key_scales(&k, d, v));
            vec_store(to[d] + VEC_DIM * v, x[v]);
        }
    }
}

/* n_dims channels of n values. */
VEC_INLINE void convert_values(form as, source v, size_t n, size_t n_dims, float (*to)[SLAB]) {
    for (size_t j = 0; j < n; j++) {
        fetch(as, &v, j * v.stride);
        for (size_t d = 0; d < n_dims; d += 8) {
            vec x[HALF];
            load_values(as, &v, j, d, HALF, x);
#pragma GCC unroll 2
            for (size_t i = 0; i < HALF; i++) {
                if (has_scales(as)) x[i] = vec_mul(x[i], value_scale(&v, j));
                vec_store(to[j] + d + VEC_DIM * i, x[i]);
            }
        }
    }
}

/* ---- scores ---------------------------------------------------------------------------------- */

/* p[r][key ...] = scale * q[r] . keys, for n_rows rows and a slab of keys at k. */
VEC_INLINE void score_block(form as, int n_rows, source k, size_t k_dim, const float *q,
                            size_t q_stride, float scale, float (*p)[KERNELS_CHUNK], size_t key) {
    vec sums[ROWS][VECS];
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 4
        for (int v = 0; v < VECS; v++) sums[r][v] = vec_all(0);
    }
    const size_t span = has_scales(as) ? KV_BLOCK_DIM : k_dim; /* channels of one scale */
    for (size_t start = 0; start < k_dim; start += span) {
        vec scales[VECS];
#pragma GCC unroll 4
        for (size_t v = 0; v < VECS; v++) {
            if (has_scales(as)) scales[v] = key_scales(&k, start, v);
        }
        const size_t end = smaller(start + span, k_dim);
        for (size_t d = start; d < end; d++) {
            fetch(as, &k, d * k.stride);
            vec keys[VECS];
            load_keys(as, &k, d, keys);
#pragma GCC unroll 4
            for (size_t v = 0; v < VECS; v++) {
                if (has_scales(as)) keys[v] = vec_mul(keys[v], scales[v]);
            }
#pragma GCC unroll 4
            for (int r = 0; r < n_rows; r++) {
                vec x = vec_all(q[(size_t)r * q_stride + d]);
#pragma GCC unroll 4
                for (int v = 0; v < VECS; v++) sums[r][v] = vec_fma(x, keys[v], sums[r][v]);
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < VECS; v++) {
            vec_store(p[r] + key + VEC_DIM * v, vec_mul(sums[r][v], vec_all(scale)));
        }
    }
}

VEC_INLINE void score_rows(form as, size_t n_rows, source k, size_t k_dim, const float *q,
                           size_t q_stride, float scale, float (*p)[KERNELS_CHUNK], size_t key) {
#define SCORE(n) score_block(as, n, k, k_dim, q, q_stride, scale, p, key)
    WITH_CONSTANT_ROWS(n_rows, SCORE)
#undef SCORE
}

/* ---- softmax --------------------------------------------------------------------------------- */

static float largest_score(const float *s, size_t first, size_t last) {
    const vec lowest = vec_all(-INFINITY);
    vec m = lowest;
    for (size_t j = first / VEC_DIM * VEC_DIM; j < last; j += VEC_DIM) {
        m = vec_max(m, vec_where_seen(j, first, last, vec_load(s + j), lowest));
    }
    float top = vec_largest(m);
    if (top == 0) { /* of zeros with different signs the first one counts */
        while (s[first] != 0) first++;
        top = s[first];
    }
    return top;
}

/* Scores become exponentials in place. */
static void softmax(float *p, size_t first, size_t last, attend_state *state) {
    state->m = largest_score(p, first, last);
    const vec m = vec_all(state->m), zero = vec_all(0);
    vec lanes[VECS];
#pragma GCC unroll 4
    for (int v = 0; v < VECS; v++) lanes[v] = zero;
    for (size_t j = first / VEC_DIM * VEC_DIM; j < last; j += VEC_DIM) {
        vec e = vec_exp(vec_sub(vec_load(p + j), m));
        vec_store(p + j, e);
        vec *lane = &lanes[j / VEC_DIM % VECS];
        *lane = vec_add(*lane, vec_where_seen(j, first, last, e, zero));
    }
    state->l = vec_tree16(lanes);
}

/* ---- values ---------------------------------------------------------------------------------- */

/* o[r][dim ...] += p[r][j] * v[j], j in [first, last) ascending, for n registers of dimensions. */
VEC_INLINE void value_block(form as, int n_rows, int n, source v, const float *p, size_t first,
                            size_t last, const attend_state *state, size_t dim) {
    vec sums[ROWS][VECS];
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 4
        for (int i = 0; i < n; i++) sums[r][i] = vec_load(state[r].o + dim + VEC_DIM * i);
    }
    for (size_t j = first; j < last; j++) {
        fetch(as, &v, j * v.stride);
        vec values[VECS];
        load_values(as, &v, j, 0, (size_t)n, values);
#pragma GCC unroll 4
        for (int i = 0; i < n; i++) {
            if (has_scales(as)) values[i] = vec_mul(values[i], value_scale(&v, j));
        }
#pragma GCC unroll 4
        for (int r = 0; r < n_rows; r++) {
            vec x = vec_all(p[(size_t)r * KERNELS_CHUNK + j]);
#pragma GCC unroll 4
            for (int i = 0; i < n; i++) sums[r][i] = vec_fma(x, values[i], sums[r][i]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 4
        for (int i = 0; i < n; i++) vec_store(state[r].o + dim + VEC_DIM * i, sums[r][i]);
    }
}

/* The same for up to SLAB dimensions from dim, a multiple of 8. */
VEC_INLINE void value_rows(form as, size_t n_rows, size_t n_dims, source v, const float *p,
                           size_t first, size_t last, const attend_state *state, size_t dim) {
    if (first >= last) return;
    if (n_dims < SLAB) {
        for (size_t r = 0; r < n_rows; r++) {
            value_block(as, 1, HALF, v, p + r * KERNELS_CHUNK, first, last, state + r, dim);
        }
        return;
    }
#define VALUES(n) value_block(as, n, VECS, v, p, first, last, state, dim)
    WITH_CONSTANT_ROWS(n_rows, VALUES)
#undef VALUES
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
        size_t end = smaller(last[r], from);
        value_rows(as, 1, n_dims, v, p + r * KERNELS_CHUNK, first[r], end, state + r, dim);
    }
    value_rows(as, n_rows, n_dims, v, p, from, to, state, dim);
    for (size_t r = 0; r < n_rows; r++) {
        value_rows(as, 1, n_dims, v, p + r * KERNELS_CHUNK, to, last[r], state + r, dim);
    }
}

/* ---- all of it --------------------------------------------------------------------------------
 */

/* Up to ROWS rows, straight from what is stored. */
static void attend_few(const attend_chunk *chunk, const float *q, size_t q_stride, size_t n_rows,
                       float scale, const uint8_t *first, const uint8_t *last, size_t key0,
                       size_t key1, attend_state *state, attend_scratch *s) {
    const size_t k_dim = chunk->k_dim, v_dim = chunk->v_dim;
    const form k_form = form_of[chunk->k_type], v_form = form_of[chunk->v_type];
    for (size_t key = key0; key < key1; key += SLAB) {
        source k = keys_at(chunk, key);
#define X(form)                                                                                    \
    if (k_form == form) score_rows(form, n_rows, k, k_dim, q, q_stride, scale, s->p, key);
        STORED(X)
#undef X
    }
    for (size_t r = 0; r < n_rows; r++) softmax(s->p[r], first[r], last[r], &state[r]);
    for (size_t d = 0; d < v_dim; d += SLAB) {
        size_t n_dims = smaller(v_dim - d, SLAB);
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

/* Up to SHARING_ROWS rows, slab by slab. */
static void attend_many(const attend_chunk *chunk, const float *q, size_t q_stride, size_t n_rows,
                        float scale, const uint8_t *first, const uint8_t *last, size_t key0,
                        size_t key1, attend_state *state, attend_scratch *s) {
    const size_t k_dim = chunk->k_dim, v_dim = chunk->v_dim;
    const form k_form = form_of[chunk->k_type], v_form = form_of[chunk->v_type];
    const source k = {.at = s->k, .stride = SLAB}, v = {.at = s->v, .stride = SLAB};
    for (size_t key = key0; key < key1; key += SLAB) {
#define X(form)                                                                                    \
    if (k_form == form) convert_keys(form, keys_at(chunk, key), k_dim, s->k);
        STORED(X)
#undef X
        for (size_t r = 0; r < n_rows; r += ROWS) {
            size_t n = smaller(n_rows - r, ROWS);
            if (!sees(first + r, last + r, n, key)) continue;
            score_rows(F32, n, k, k_dim, q + r * q_stride, q_stride, scale, s->p + r, key);
        }
    }
    for (size_t r = 0; r < n_rows; r++) softmax(s->p[r], first[r], last[r], &state[r]);
    for (size_t d = 0; d < v_dim; d += SLAB) {
        size_t n_dims = smaller(v_dim - d, SLAB);
#define X(form)                                                                                    \
    if (v_form == form)                                                                            \
        convert_values(form, values_at(chunk, key0, d), key1 - key0, n_dims, s->v + key0);
        STORED(X)
#undef X
        for (size_t r = 0; r < n_rows; r += ROWS) {
            size_t n = smaller(n_rows - r, ROWS);
            value_ranges(F32, n, n_dims, v, s->p[r], first + r, last + r, state + r, d);
        }
    }
}

size_t VEC_KERNEL(attend_scratch)(size_t k_dim, size_t v_dim, size_t n_rows) {
    (void)v_dim; /* values are converted SLAB channels at a time */
    if (n_rows <= ROWS) return sizeof(attend_scratch); /* only p */
    return sizeof(attend_scratch) + k_dim * SLAB * sizeof(float);
}

void VEC_KERNEL(attend)(const attend_chunk *chunk, const float *q, size_t q_stride, size_t n_rows,
                        float scale, const uint8_t *first, const uint8_t *last, attend_state *state,
                        void *scratch) {
    attend_scratch *s = scratch;
    assert(VEC_KERNEL(attend_scratch)(chunk->k_dim, chunk->v_dim, n_rows) <= KERNELS_SCRATCH_BYTES);
    for (size_t r0 = 0; r0 < n_rows; r0 += SHARING_ROWS) {
        size_t n = smaller(n_rows - r0, SHARING_ROWS);
        size_t key0 = KERNELS_CHUNK, key1 = 0; /* what any row sees, in whole slabs */
        for (size_t r = r0; r < r0 + n; r++) {
            key0 = smaller(first[r], key0);
            key1 = last[r] > key1 ? last[r] : key1;
            memset(state[r].o, 0, chunk->v_dim * sizeof(float));
        }
        key0 = key0 / SLAB * SLAB;
        key1 = (key1 + SLAB - 1) / SLAB * SLAB;
        (n <= ROWS ? attend_few : attend_many)(chunk, q + r0 * q_stride, q_stride, n, scale,
                                               first + r0, last + r0, key0, key1, state + r0, s);
    }
}

void VEC_KERNEL(attend_merge)(attend_state *into, const attend_state *from, size_t v_dim) {
    const float m = from->m > into->m ? from->m : into->m;
    const vec scale_into = vec_exp(vec_all(into->m - m)),
              scale_from = vec_exp(vec_all(from->m - m));
    into->m = m;
    into->l = fmaf(from->l, vec_first(scale_from), into->l * vec_first(scale_into));
    for (size_t d = 0; d < v_dim; d += VEC_DIM) {
        vec o = vec_mul(vec_load(into->o + d), scale_into);
        vec_store(into->o + d, vec_fma(vec_load(from->o + d), scale_from, o));
    }
}

#endif
