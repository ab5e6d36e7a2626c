/* lanes: eight sub-blocks side by side, and the arithmetic on them.
 *
 * A lane is one sub-block, so that no sum ever crosses lanes and what is found for one does not
 * depend on its neighbours. Plain additions, multiplications and divisions, never contracted: a
 * lane gives the same bits with every instruction set this is compiled for.
 */
#ifndef LL_QUANTIZE_LANES_H
#define LL_QUANTIZE_LANES_H

#include <stddef.h>
#include <stdint.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define LANES_INLINE static inline __attribute__((always_inline))

enum { N_LANES = 8, LANES_DIM = 32 }; /* LANES_DIM: values of a sub-block, at most */

typedef float lanes __attribute__((vector_size(N_LANES * sizeof(float))));
typedef int32_t lanes_mask __attribute__((vector_size(N_LANES * sizeof(int32_t))));

LANES_INLINE lanes lanes_all(float x) { return (lanes){x, x, x, x, x, x, x, x}; }

/* mask ? a : b */
LANES_INLINE lanes lanes_select(lanes_mask mask, lanes a, lanes b) {
#if defined(__AVX2__)
    return (lanes)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)mask);
#else
    return (lanes)(((lanes_mask)a & mask) | ((lanes_mask)b & ~mask));
#endif
}

/* a < b ? a : b, and a > b ? a : b */
LANES_INLINE lanes lanes_min(lanes a, lanes b) {
#if defined(__AVX2__)
    return (lanes)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return lanes_select(a < b, a, b);
#endif
}
LANES_INLINE lanes lanes_max(lanes a, lanes b) {
#if defined(__AVX2__)
    return (lanes)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return lanes_select(a > b, a, b);
#endif
}

LANES_INLINE lanes lanes_abs(lanes a) {
    return (lanes)((lanes_mask)a & (INT32_MAX - (lanes_mask){0}));
}

/* The nearest integer, halves to even, for |x| < 2^22. */
LANES_INLINE lanes lanes_round(lanes x) {
    const lanes magic = lanes_all(12582912.0f); /* 1.5 * 2^23 */
    return (x + magic) - magic;
}

/* The nearest integer in [low, high]. */
LANES_INLINE lanes lanes_code(lanes x, float low, float high) {
    return lanes_round(lanes_min(lanes_max(x, lanes_all(low)), lanes_all(high)));
}

/* 1 / x, and 0 for 0. */
LANES_INLINE lanes lanes_inverse(lanes x) {
    const lanes zero = lanes_all(0);
    return lanes_select(x == zero, zero, 1 / lanes_select(x == zero, lanes_all(1), x));
}

/* The values of eight sub-blocks and how much their errors count. */
typedef struct lanes_problem {
    int n;
    lanes x[LANES_DIM], w[LANES_DIM]; /* [n] */
} lanes_problem;

#endif
