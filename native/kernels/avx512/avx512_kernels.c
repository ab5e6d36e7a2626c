/* avx512_kernels: what AVX-512 (F, BW, DQ, VL, VNNI) has kernels for. */
#include "base/isa.h"
#include "kernels/avx512/avx512_matmul.h"
#include "kernels/avx512/avx512_tile.h"
#include "kernels/avx512/avx512_vector.h"

size_t avx512_matmul_scratch(quant q, size_t n, size_t n_rows, size_t n_cols) {
    const acts_kind kind = quant_table[q].acts;
    return kind == ACTS_F32 || kind == ACTS_BF16 ? avx512_float_scratch(q, n, n_rows, n_cols)
                                                 : avx512_tile_scratch(n_rows, n_cols);
}

const kernels kernels_avx512 = {
    .name = "avx512",
    .is_available = isa_has_avx512,
    .task_macs = 256 << 20,
    .matmul =
        {
                 [QUANT_F32] = avx512_matmul_f32,
                 [QUANT_F16] = avx512_matmul_f16,
                 [QUANT_BF16] = avx512_matmul_bf16,
                 [QUANT_Q4_0] = avx512_matmul_q4_0,
                 [QUANT_Q4_1] = avx512_matmul_q4_1,
                 [QUANT_Q5_0] = avx512_matmul_q5_0,
                 [QUANT_Q5_1] = avx512_matmul_q5_1,
                 [QUANT_Q8_0] = avx512_matmul_q8_0,
                 [QUANT_IQ4_NL] = avx512_matmul_iq4_nl,
                 [QUANT_MXFP4] = avx512_matmul_mxfp4,
                 [QUANT_Q2_K] = avx512_matmul_q2_k,
                 [QUANT_Q3_K] = avx512_matmul_q3_k,
                 [QUANT_Q4_K] = avx512_matmul_q4_k,
                 [QUANT_Q5_K] = avx512_matmul_q5_k,
                 [QUANT_Q6_K] = avx512_matmul_q6_k,
                 [QUANT_IQ4_XS] = avx512_matmul_iq4_xs,
                 },
    .quantize = avx512_quantize,
    .rms_norm = avx512_rms_norm,
    .add = avx512_add,
    .silu_mul = avx512_silu_mul,
    .gelu_mul = avx512_gelu_mul,
    .to_f16 = avx512_to_f16,
    .largest = avx512_largest,
    .sum_weights = avx512_sum_weights,
    .attend = avx512_attend,
    .attend_merge = avx512_attend_merge,
    .matmul_scratch = avx512_matmul_scratch,
    .attend_scratch = avx512_attend_scratch,
};
