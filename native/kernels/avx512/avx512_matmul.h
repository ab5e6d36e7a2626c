/* avx512_matmul: the matmul_kernel of each quant that has one, by its stem in quant_formats.h. */
#ifndef LL_KERNELS_AVX512_MATMUL_H
#define LL_KERNELS_AVX512_MATMUL_H

#include "kernels/kernels.h"

matmul_kernel avx512_matmul_f32, avx512_matmul_f16, avx512_matmul_bf16, avx512_matmul_q4_0,
    avx512_matmul_q4_1, avx512_matmul_q5_0, avx512_matmul_q5_1, avx512_matmul_q8_0,
    avx512_matmul_iq4_nl, avx512_matmul_mxfp4, avx512_matmul_q2_k, avx512_matmul_q3_k,
    avx512_matmul_q4_k, avx512_matmul_q5_k, avx512_matmul_q6_k, avx512_matmul_iq4_xs;

/* What they touch of scratch, all of them and those of floats; see kernels.h. */
size_t avx512_matmul_scratch(quant q, size_t n, size_t n_rows, size_t n_cols);
size_t avx512_float_scratch(quant q, size_t n, size_t n_rows, size_t n_cols);

#endif
