/* immintrin: stands before the compiler's header of that name when the AVX-512 kernels are built
 * for a processor without AVX-512. SIMDe gives every intrinsic its meaning in plain C or AVX2, so
 * the kernels' own sources run unchanged; what SIMDe lacks is written here, element by element,
 * from the instructions' documented operation.
 */
#ifndef TESTS_EMULATED_IMMINTRIN_H
#define TESTS_EMULATED_IMMINTRIN_H

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include_next <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

/* Elements of a register in memory, and back. */
#define ELEMENTS(type, n, x)                                                                       \
    type x##_[n];                                                                                  \
    memcpy(x##_, &x, sizeof x)
#define RETURN_ELEMENTS(register_type, elements)                                                   \
    register_type result;                                                                          \
    memcpy(&result, elements, sizeof result);                                                      \
    return result

/* VPMOVDW, VPMOVDB: the low half or byte of every dword. */
static inline __m256i emulated_cvtepi32_epi16(__m512i x) {
    ELEMENTS(uint32_t, 16, x);
    uint16_t y[16];
    for (int i = 0; i < 16; i++) y[i] = (uint16_t)x_[i];
    RETURN_ELEMENTS(__m256i, y);
}

static inline __m128i emulated_256_cvtepi32_epi16(__m256i x) {
    ELEMENTS(uint32_t, 8, x);
    uint16_t y[8];
    for (int i = 0; i < 8; i++) y[i] = (uint16_t)x_[i];
    RETURN_ELEMENTS(__m128i, y);
}

static inline __m128i emulated_cvtepi32_epi8(__m512i x) {
    ELEMENTS(uint32_t, 16, x);
    uint8_t y[16];
    for (int i = 0; i < 16; i++) y[i] = (uint8_t)x_[i];
    RETURN_ELEMENTS(__m128i, y);
}

/* VPMOVSXBD: bytes to dwords, the sign kept. */
static inline __m512i emulated_cvtepi8_epi32(__m128i x) {
    ELEMENTS(int8_t, 16, x);
    int32_t y[16];
    for (int i = 0; i < 16; i++) y[i] = x_[i];
    RETURN_ELEMENTS(__m512i, y);
}

/* VPMOVZXBD, VPMOVZXBQ: bytes to dwords and qwords. */
static inline __m512i emulated_cvtepu8_epi32(__m128i x) {
    ELEMENTS(uint8_t, 16, x);
    uint32_t y[16];
    for (int i = 0; i < 16; i++) y[i] = x_[i];
    RETURN_ELEMENTS(__m512i, y);
}

static inline __m512i emulated_cvtepu8_epi64(__m128i x) {
    ELEMENTS(uint8_t, 16, x);
    uint64_t y[8];
    for (int i = 0; i < 8; i++) y[i] = x_[i];
    RETURN_ELEMENTS(__m512i, y);
}

/* VCVTPS2PH: the processor's own conversion of eight, twice. */
#define emulated_cvtps_ph(x, rounding)                                                             \
    _mm256_setr_m128i(_mm256_cvtps_ph(_mm512_castps512_ps256(x), rounding),                        \
                      _mm256_cvtps_ph(_mm512_extractf32x8_ps(x, 1), rounding))

static inline int32_t emulated_reduce_add_epi32(__m512i x) {
    ELEMENTS(uint32_t, 16, x);
    uint32_t sum = 0;
    for (int i = 0; i < 16; i++) sum += x_[i];
    return (int32_t)sum;
}

static inline __m512i emulated_zextsi256_si512(__m256i x) {
    int64_t y[8] = {0};
    memcpy(y, &x, sizeof x);
    RETURN_ELEMENTS(__m512i, y);
}

/* Loads and stores under a mask touch only the elements it names; SIMDe's touch all of them. */
static inline __m512 emulated_maskz_loadu_ps(__mmask16 m, const void *from) {
    float x[16] = {0};
    for (int i = 0; i < 16; i++) {
        if (m >> i & 1) memcpy(&x[i], (const float *)from + i, sizeof x[i]);
    }
    RETURN_ELEMENTS(__m512, x);
}

static inline void emulated_mask_storeu_ps(void *to, __mmask16 m, __m512 x) {
    ELEMENTS(float, 16, x);
    for (int i = 0; i < 16; i++) {
        if (m >> i & 1) memcpy((float *)to + i, &x_[i], sizeof x_[i]);
    }
}

static inline __m256i emulated_maskz_loadu_epi16(__mmask16 m, const void *from) {
    uint16_t x[16] = {0};
    for (int i = 0; i < 16; i++) {
        if (m >> i & 1) memcpy(&x[i], (const uint16_t *)from + i, sizeof x[i]);
    }
    RETURN_ELEMENTS(__m256i, x);
}

static inline __m128i emulated_maskz_loadu_epi8(__mmask16 m, const void *from) {
    uint8_t x[16] = {0};
    for (int i = 0; i < 16; i++) {
        if (m >> i & 1) x[i] = ((const uint8_t *)from)[i];
    }
    RETURN_ELEMENTS(__m128i, x);
}

static inline void emulated_mask_storeu_epi16(void *to, __mmask16 m, __m256i x) {
    ELEMENTS(uint16_t, 16, x);
    for (int i = 0; i < 16; i++) {
        if (m >> i & 1) memcpy((uint16_t *)to + i, &x_[i], sizeof x_[i]);
    }
}

/* VCVTTPD2QQ and VCVTTPD2UQQ: doubles to integers, towards zero; VCVTQQ2PD: back. */
static inline __m512i emulated_cvttpd_epi64(__m512d x) {
    ELEMENTS(double, 8, x);
    int64_t y[8];
    for (int i = 0; i < 8; i++) y[i] = (int64_t)x_[i];
    RETURN_ELEMENTS(__m512i, y);
}

static inline __m512i emulated_cvttpd_epu64(__m512d x) {
    ELEMENTS(double, 8, x);
    uint64_t y[8];
    for (int i = 0; i < 8; i++) y[i] = (uint64_t)x_[i];
    RETURN_ELEMENTS(__m512i, y);
}

static inline __m512d emulated_cvtepi64_pd(__m512i x) {
    ELEMENTS(int64_t, 8, x);
    double y[8];
    for (int i = 0; i < 8; i++) y[i] = (double)x_[i];
    RETURN_ELEMENTS(__m512d, y);
}

/* VCVTPS2PD: floats to doubles. */
static inline __m512d emulated_cvtps_pd(__m256 x) {
    ELEMENTS(float, 8, x);
    double y[8];
    for (int i = 0; i < 8; i++) y[i] = (double)x_[i];
    RETURN_ELEMENTS(__m512d, y);
}

static inline int64_t emulated_reduce_add_epi64(__m512i x) {
    ELEMENTS(uint64_t, 8, x);
    uint64_t sum = 0;
    for (int i = 0; i < 8; i++) sum += x_[i];
    return (int64_t)sum;
}

/* VCMPPD for the one predicate the kernels use. */
static inline __mmask8 emulated_mask_cmp_pd_mask(__mmask8 m, __m512d a, __m512d b, int predicate) {
    assert(predicate == _CMP_GT_OQ);
    ELEMENTS(double, 8, a);
    ELEMENTS(double, 8, b);
    for (int i = 0; i < 8; i++) {
        if (!(a_[i] > b_[i])) m &= (__mmask8) ~(1u << i);
    }
    return m;
}

/* VPSRLVQ: each qword shifted by its own count, to 0 from 64 on. */
static inline __m512i emulated_maskz_srlv_epi64(__mmask8 m, __m512i x, __m512i count) {
    ELEMENTS(uint64_t, 8, x);
    ELEMENTS(uint64_t, 8, count);
    for (int i = 0; i < 8; i++) {
        x_[i] = (m >> i & 1) && count_[i] < 64 ? x_[i] >> count_[i] : 0;
    }
    RETURN_ELEMENTS(__m512i, x_);
}

/* Those that SIMDe has under the same name. */
#undef _mm512_maskz_loadu_ps
#undef _mm512_mask_storeu_ps
#undef _mm256_maskz_loadu_epi16
#undef _mm256_mask_storeu_epi16

#define _mm512_maskz_loadu_ps    emulated_maskz_loadu_ps
#define _mm512_mask_storeu_ps    emulated_mask_storeu_ps
#define _mm256_maskz_loadu_epi16 emulated_maskz_loadu_epi16
#define _mm256_mask_storeu_epi16 emulated_mask_storeu_epi16
#define _mm512_cvtepi32_epi16    emulated_cvtepi32_epi16
#define _mm256_cvtepi32_epi16    emulated_256_cvtepi32_epi16
#define _mm512_cvtepi32_epi8     emulated_cvtepi32_epi8
#define _mm512_cvtepi8_epi32     emulated_cvtepi8_epi32
#define _mm_maskz_loadu_epi8     emulated_maskz_loadu_epi8
#define _mm512_cvtepu8_epi32     emulated_cvtepu8_epi32
#define _mm512_cvtepu8_epi64     emulated_cvtepu8_epi64
#define _mm512_cvtps_ph          emulated_cvtps_ph
#define _mm512_reduce_add_epi32  emulated_reduce_add_epi32
#define _mm512_zextsi256_si512   emulated_zextsi256_si512
#define _mm512_cvtps_pd          emulated_cvtps_pd
#define _mm512_reduce_add_epi64  emulated_reduce_add_epi64
#define _mm512_cvttpd_epi64      emulated_cvttpd_epi64
#define _mm512_cvttpd_epu64      emulated_cvttpd_epu64
#define _mm512_cvtepi64_pd       emulated_cvtepi64_pd
#define _mm512_mask_cmp_pd_mask  emulated_mask_cmp_pd_mask
#define _mm512_maskz_srlv_epi64  emulated_maskz_srlv_epi64

/* The kernels' inline assembly is empty and only keeps a value in a 512-bit register. */
#define __asm__(...) ((void)0)

/* Functions that are instantiated by inlining become ordinary ones, in a tenth of the compile
 * time; their arguments are the same. */
#define always_inline noinline

#endif
