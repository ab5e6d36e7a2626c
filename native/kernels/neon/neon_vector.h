/* neon_vector: the kernels over plain vectors and of attention, with the contracts of kernels.h.
 * Base armv8-a has all they use, so every set of NEON kernels shares them. */
#ifndef LL_KERNELS_NEON_VECTOR_H
#define LL_KERNELS_NEON_VECTOR_H

#include "kernels/kernels.h"

void neon_quantize(acts *a, size_t col, const float *x);
void neon_rms_norm(const float *x, const float *weight, float eps, float *y, size_t n);
void neon_add(const float *x, float *y, size_t n);
void neon_silu_mul(const float *gate, const float *up, float *y, size_t n);
void neon_gelu_mul(const float *gate, const float *up, float *y, size_t n);
void neon_to_f16(const float *x, uint16_t *y, size_t n);

void neon_attend(const attend_chunk *chunk, const float *q, size_t q_stride, size_t n_rows,
                 float scale, const uint8_t *first, const uint8_t *last, attend_state *state,
                 void *scratch);
size_t neon_attend_scratch(size_t k_dim, size_t v_dim, size_t n_rows);
void neon_attend_merge(attend_state *into, const attend_state *from, size_t v_dim);

#endif
