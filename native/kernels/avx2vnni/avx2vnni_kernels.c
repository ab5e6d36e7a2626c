/* avx2vnni_kernels: AVX2 with AVX-VNNI, which is what Intel's processors without AVX-512 have; the
 * kernels without byte products are those of AVX2.
 */
#include "base/isa.h"
#include "kernels/avx2/avx2_matmul.h"
#include "kernels/avx2/avx2_vector.h"

const kernels kernels_avx2_vnni = {
    .name = "avx2_vnni",
    .is_available = isa_has_avx2_vnni,
    .task_macs = 256 << 20,
    .matmul[QUANT_F32] = avx2_matmul_f32,
    .matmul[QUANT_F16] = avx2_matmul_f16,
    .matmul[QUANT_BF16] = avx2_matmul_bf16,
    .matmul[QUANT_Q4_0] = avx2_vnni_matmul_q4_0,
    .matmul[QUANT_Q4_1] = avx2_vnni_matmul_q4_1,
    .matmul[QUANT_Q5_0] = avx2_vnni_matmul_q5_0,
    .matmul[QUANT_Q5_1] = avx2_vnni_matmul_q5_1,
    .matmul[QUANT_Q8_0] = avx2_vnni_matmul_q8_0,
    .matmul[QUANT_IQ4_NL] = avx2_vnni_matmul_iq4_nl,
    .matmul[QUANT_MXFP4] = avx2_vnni_matmul_mxfp4,
    .matmul[QUANT_Q2_K] = avx2_vnni_matmul_q2_k,
    .matmul[QUANT_Q3_K] = avx2_vnni_matmul_q3_k,
    .matmul[QUANT_Q4_K] = avx2_vnni_matmul_q4_k,
    .matmul[QUANT_Q5_K] = avx2_vnni_matmul_q5_k,
    .matmul[QUANT_Q6_K] = avx2_vnni_matmul_q6_k,
    .matmul[QUANT_IQ4_XS] = avx2_vnni_matmul_iq4_xs,
    .quantize = avx2_quantize,
    .rms_norm = avx2_rms_norm,
    .add = avx2_add,
    .silu_mul = avx2_silu_mul,
    .gelu_mul = avx2_gelu_mul,
    .to_f16 = avx2_to_f16,
    .largest = avx2_largest,
    .sum_weights = avx2_sum_weights,
    .attend = avx2_attend,
    .attend_merge = avx2_attend_merge,
    .matmul_scratch = avx2_matmul_scratch,
    .attend_scratch = avx2_attend_scratch,
};
