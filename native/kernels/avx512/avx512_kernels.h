/* avx512_kernels: what AVX-512 has kernels for, as the tables name it. */
#ifndef LL_KERNELS_AVX512_KERNELS_H
#define LL_KERNELS_AVX512_KERNELS_H

#include "kernels/kernels.h"

KERNELS_DECLARE(avx512);

#define X(name, stem, ...) matmul_kernel avx512_matmul_##stem;
QUANTS_FAST(X)
#undef X

/* What products of floats touch of scratch; see kernels.h. */
size_t avx512_float_scratch(quant q, size_t n, size_t n_rows, size_t n_cols);

/* avx512_attend with up to so many rows meeting keys, or values, of a type as they are stored, and
 * more meeting them converted: what a conversion costs beside the multiplications is the
 * processor's. */
void avx512_attend_direct(const size_t most_direct[KV_TYPE_COUNT], const attend_chunk *chunk,
                          const float *q, size_t q_stride, size_t n_rows, float scale,
                          const uint8_t *first, const uint8_t *last, attend_state *state,
                          void *scratch);

void avx512_peak_int8(uint64_t n_turns);
void avx512_peak_float(uint64_t n_turns);

#endif
