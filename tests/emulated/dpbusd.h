/* dpbusd: 256-bit vpdpbusd for a processor with nothing beyond AVX2, from the instruction's
 * documented operation: unsigned bytes times signed ones, four products added to each dword.
 */
#ifndef TESTS_EMULATED_DPBUSD_H
#define TESTS_EMULATED_DPBUSD_H

#include <immintrin.h>

static inline __m256i emulated_dpbusd(__m256i sums, __m256i u, __m256i s) {
    __m256i even = _mm256_madd_epi16(_mm256_and_si256(u, _mm256_set1_epi16(255)),
                                     _mm256_srai_epi16(_mm256_slli_epi16(s, 8), 8));
    __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(u, 8), _mm256_srai_epi16(s, 8));
    return _mm256_add_epi32(sums, _mm256_add_epi32(even, odd));
}

#define STEP_DPBUSD emulated_dpbusd

#endif
