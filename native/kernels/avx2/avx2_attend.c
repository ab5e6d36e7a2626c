/* avx2_attend: attention as attend_rows.h computes it, eight lanes at a time. */
#include "kernels/avx2/avx2_kernels.h"
#include "kernels/avx2/avx2_vec.h"

VEC_INLINE vec vec_where_seen(size_t j, size_t first, size_t last, vec x, vec y) {
    __m256i at =
        _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32((int)j));
    __m256i in = _mm256_and_si256(_mm256_cmpgt_epi32(at, _mm256_set1_epi32((int)first - 1)),
                                  _mm256_cmpgt_epi32(_mm256_set1_epi32((int)last), at));
    return _mm256_blendv_ps(y, x, _mm256_castsi256_ps(in));
}

VEC_INLINE void load_q8(const int8_t *from, size_t n, vec *to) {
    for (size_t v = 0; v < n; v++) {
        __m128i codes = _mm_loadl_epi64((const void *)(from + 8 * v));
        to[v] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
    }
}

/* What the u4 in eight lanes stand for. */
VEC_INLINE vec number_of_q4(__m256i codes) {
    codes = _mm256_and_si256(codes, _mm256_set1_epi32(15));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(codes, _mm256_set1_epi32(8)));
}

VEC_INLINE void load_q4_keys(const uint8_t *from, size_t d, size_t n, vec *to) {
    const __m128i shift = _mm_cvtsi32_si128((int)(d % 2 * 4));
    for (size_t v = 0; v < n; v++) {
        __m256i codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(from + 8 * v)));
        to[v] = number_of_q4(_mm256_srl_epi32(codes, shift));
    }
}

VEC_INLINE void load_q4_values(const uint8_t *from, size_t n, vec *to) {
    for (size_t v = 0; v < n; v++) {
        int32_t pairs;
        memcpy(&pairs, from + 4 * v, sizeof pairs);
        __m256i low = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(pairs)); /* 64 bits for two of 32 */
        to[v] = number_of_q4(_mm256_or_si256(low, _mm256_slli_epi64(low, 28)));
    }
}

#define VEC_KERNEL(name) avx2_##name
#include "kernels/attend_rows.h"
