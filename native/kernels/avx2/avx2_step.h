/* avx2_step: how the products of unsigned and signed bytes are summed, the one thing in which
 * AVX-VNNI differs from AVX2.
 *
 * AVX2 adds pairs of products in int16. A run of steps stays in int16 for as long as its result
 * fits, since adding wraps and so may pass through what does not fit; only a single pair must not
 * reach 2^15, where vpmaddubsw saturates. The run's end is one vpmaddwd with the scale. AVX-VNNI
 * (STEP_VNNI) adds four products in int32, where everything fits. STEP_DPBUSD may name the same
 * instruction in another encoding, for a processor that has only that.
 */
#ifndef LL_KERNELS_AVX2_STEP_H
#define LL_KERNELS_AVX2_STEP_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

#define STEP_INLINE static inline __attribute__((always_inline))

#if defined(STEP_VNNI)

#if !defined(STEP_DPBUSD)
#define STEP_DPBUSD _mm256_dpbusd_avx_epi32
#endif
#define STEP_NAME(stem) avx2_vnni_matmul_##stem

/* What is added to signed codes to make them unsigned; 0: they stay signed. */
enum { STEP_IS_WIDE = true, STEP_SIGNED_ZERO = 128 };

STEP_INLINE __m256i step_first(__m256i u, __m256i s) {
    return STEP_DPBUSD(_mm256_setzero_si256(), u, s);
}
STEP_INLINE __m256i step_next(__m256i sums, __m256i u, __m256i s) {
    return STEP_DPBUSD(sums, u, s);
}
STEP_INLINE __m256i step_end(__m256i sums, __m256i scale) {
    return _mm256_mullo_epi32(sums, scale);
}
STEP_INLINE __m256i step_end_unscaled(__m256i sums) { return sums; }
STEP_INLINE __m256i step_subtract(__m256i a, __m256i b) { return _mm256_sub_epi32(a, b); }

#else

#define STEP_NAME(stem) avx2_matmul_##stem

enum { STEP_IS_WIDE = false, STEP_SIGNED_ZERO = 0 };

STEP_INLINE __m256i step_first(__m256i u, __m256i s) { return _mm256_maddubs_epi16(u, s); }
STEP_INLINE __m256i step_next(__m256i sums, __m256i u, __m256i s) {
    return _mm256_add_epi16(sums, _mm256_maddubs_epi16(u, s));
}
STEP_INLINE __m256i step_end(__m256i sums, __m256i scale) { return _mm256_madd_epi16(sums, scale); }
STEP_INLINE __m256i step_end_unscaled(__m256i sums) {
    return _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
}
STEP_INLINE __m256i step_subtract(__m256i a, __m256i b) { return _mm256_sub_epi16(a, b); }

#endif

/* Steps of a run of at most n (a power of two) whose sum fits, for codes up to `largest`. */
STEP_INLINE int step_run(int largest, int n) {
    while (!STEP_IS_WIDE && 2 * 127 * largest * n > INT16_MAX) n /= 2;
    return n;
}

/* Byte i of every dword as a scale, signed or not: an int32, or the same int16 twice. */
STEP_INLINE __m256i step_select(int dword, int next) {
    return _mm256_setr_epi32(dword, dword + next, dword + 2 * next, dword + 3 * next, dword,
                             dword + next, dword + 2 * next, dword + 3 * next);
}
STEP_INLINE __m256i step_scale_unsigned(__m256i bytes, int i) { /* a set top bit writes zero */
    if (STEP_IS_WIDE) return _mm256_shuffle_epi8(bytes, step_select((int)0x80808000 + i, 4));
    return _mm256_shuffle_epi8(bytes, step_select((int)0x80008000 + 0x00010001 * i, 0x00040004));
}
STEP_INLINE __m256i step_scale_signed(__m256i bytes, int i) {
    __m256i copies = _mm256_shuffle_epi8(bytes, step_select(0x01010101 * i, 0x04040404));
    return STEP_IS_WIDE ? _mm256_srai_epi32(copies, 24) : _mm256_srai_epi16(copies, 8);
}

#endif
