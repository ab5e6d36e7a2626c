/* avx2_vector: the kernels over plain vectors, with the contracts of kernels.h. */
#ifndef LL_KERNELS_AVX2_VECTOR_H
#define LL_KERNELS_AVX2_VECTOR_H

#include "kernels/kernels.h"

void avx2_quantize(acts *a, size_t col, const float *x);
void avx2_rms_norm(const float *x, const float *weight, float eps, float *y, size_t n);
void avx2_add(const float *x, float *y, size_t n);
void avx2_silu_mul(const float *gate, const float *up, float *y, size_t n);
void avx2_gelu_mul(const float *gate, const float *up, float *y, size_t n);
void avx2_to_f16(const float *x, uint16_t *y, size_t n);
float avx2_largest(const float *x, size_t n);
uint64_t avx2_sum_weights(const float *x, size_t n, float best, double scale);

void avx2_attend(const attend_chunk *chunk, const float *q, size_t q_stride, size_t n_rows,
                 float scale, const uint8_t *first, const uint8_t *last, attend_state *state,
                 void *scratch);
size_t avx2_attend_scratch(size_t k_dim, size_t v_dim, size_t n_rows);
void avx2_attend_merge(attend_state *into, const attend_state *from, size_t v_dim);

#endif
