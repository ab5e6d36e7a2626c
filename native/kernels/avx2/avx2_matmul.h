/* avx2_matmul: the matmul_kernel of each quant that has one, by its stem in quant_formats.h; the
 * integer ones also as AVX-VNNI computes them.
 */
#ifndef LL_KERNELS_AVX2_MATMUL_H
#define LL_KERNELS_AVX2_MATMUL_H

#include "kernels/kernels.h"

matmul_kernel avx2_matmul_f32, avx2_matmul_f16, avx2_matmul_bf16, avx2_matmul_q4_0,
    avx2_matmul_q4_1, avx2_matmul_q5_0, avx2_matmul_q5_1, avx2_matmul_q8_0, avx2_matmul_iq4_nl,
    avx2_matmul_mxfp4, avx2_matmul_q2_k, avx2_matmul_q3_k, avx2_matmul_q4_k, avx2_matmul_q5_k,
    avx2_matmul_q6_k, avx2_matmul_iq4_xs;

matmul_kernel avx2_vnni_matmul_q4_0, avx2_vnni_matmul_q4_1, avx2_vnni_matmul_q5_0,
    avx2_vnni_matmul_q5_1, avx2_vnni_matmul_q8_0, avx2_vnni_matmul_iq4_nl, avx2_vnni_matmul_mxfp4,
    avx2_vnni_matmul_q2_k, avx2_vnni_matmul_q3_k, avx2_vnni_matmul_q4_k, avx2_vnni_matmul_q5_k,
    avx2_vnni_matmul_q6_k, avx2_vnni_matmul_iq4_xs;

/* What they touch of scratch, all of them and those of floats; see kernels.h. */
size_t avx2_float_scratch(size_t n_cols);
size_t avx2_matmul_scratch(quant q, size_t n, size_t n_rows, size_t n_cols);

#endif
