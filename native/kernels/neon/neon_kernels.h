/* neon_kernels: the struct of one set of NEON kernels, which differ in their dots alone. */
#ifndef LL_KERNELS_NEON_KERNELS_H
#define LL_KERNELS_NEON_KERNELS_H

#include "base/exact.h"
#include "base/isa.h"
#include "kernels/neon/neon_matmul_float.h"
#include "kernels/neon/neon_tile.h"
#include "kernels/neon/neon_vector.h"

#define NEON_KERNELS(set)                                                                          \
    const kernels kernels_##set = {                                                                \
        .name = #set,                                                                              \
        .is_available = isa_has_##set,                                                             \
        .task_macs = 64 << 20,                                                                     \
        .matmul[QUANT_F32] = neon_matmul_f32,                                                      \
        .matmul[QUANT_F16] = neon_matmul_f16,                                                      \
        .matmul[QUANT_BF16] = neon_matmul_bf16,                                                    \
        .matmul[QUANT_Q4_0] = matmul_q4_0,                                                         \
        .matmul[QUANT_Q4_1] = matmul_q4_1,                                                         \
        .matmul[QUANT_Q5_0] = matmul_q5_0,                                                         \
        .matmul[QUANT_Q5_1] = matmul_q5_1,                                                         \
        .matmul[QUANT_Q8_0] = matmul_q8_0,                                                         \
        .matmul[QUANT_IQ4_NL] = matmul_iq4_nl,                                                     \
        .matmul[QUANT_MXFP4] = matmul_mxfp4,                                                       \
        .matmul[QUANT_Q2_K] = matmul_q2_k,                                                         \
        .matmul[QUANT_Q3_K] = matmul_q3_k,                                                         \
        .matmul[QUANT_Q4_K] = matmul_q4_k,                                                         \
        .matmul[QUANT_Q5_K] = matmul_q5_k,                                                         \
        .matmul[QUANT_Q6_K] = matmul_q6_k,                                                         \
        .matmul[QUANT_IQ4_XS] = matmul_iq4_xs,                                                     \
        .quantize = neon_quantize,                                                                 \
        .rms_norm = neon_rms_norm,                                                                 \
        .add = neon_add,                                                                           \
        .silu_mul = neon_silu_mul,                                                                 \
        .gelu_mul = neon_gelu_mul,                                                                 \
        .to_f16 = neon_to_f16,                                                                     \
        .attend = neon_attend,                                                                     \
        .attend_merge = neon_attend_merge,                                                         \
        .matmul_scratch = neon_matmul_scratch,                                                     \
        .attend_scratch = neon_attend_scratch,                                                     \
        .largest = exact_largest,                                                                  \
        .sum_weights = exact_sum_weights,                                                          \
    }

#endif
