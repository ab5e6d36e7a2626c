/* avx2_kernels: what AVX2 has kernels for, as the tables name it; the products of integers also as
 * AVX-VNNI computes them.
 */
#ifndef LL_KERNELS_AVX2_KERNELS_H
#define LL_KERNELS_AVX2_KERNELS_H

#include "kernels/kernels.h"

KERNELS_DECLARE(avx2);

#define X(name, stem, ...) matmul_kernel avx2_matmul_##stem;
QUANTS_FAST(X)
#undef X

#define X(name, stem, ...) matmul_kernel avx2_vnni_matmul_##stem;
QUANTS_32(X)
QUANTS_256(X)
#undef X

size_t avx2_float_scratch(size_t n_cols); /* what products of floats touch of scratch */
void avx2_peak_float(uint64_t n_turns);

#endif
