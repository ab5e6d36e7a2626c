/* avx512amd_kernels: AVX-512 as AMD's processors like it. With few columns a product is bound by
 * reading its weights, and there the streams of AVX2 (rows side by side, the next ones fetched by
 * software) read faster than those of AVX-512 (lanes pages apart, left to the processor's own
 * fetching). Both return the same bits, so each product goes to whoever is faster for it. Measured
 * on two cores of Zen 4, tokens/s of a 1B model with one column: Q4_K 24 -> 36, Q6_K 16 -> 28,
 * Q4_0 30 -> 45; F16 is slower with AVX2.
 */
#include "base/isa.h"
#include "format/quant_formats.h"
#include "kernels/avx2/avx2_matmul.h"
#include "kernels/avx512/avx512_matmul.h"
#include "kernels/avx512/avx512_vector.h"

/* The most columns that AVX2 takes, by the activations of a quant. */
enum { FEW_ACTS_F32 = 0, FEW_ACTS_BF16 = 0, FEW_ACTS_Q8_32 = 1, FEW_ACTS_Q8_256 = 4 };

#define X(name, stem, ggml_id, block_dim, block_bytes, acts_kind)                                  \
    static void matmul_##stem(const void *rows, size_t row_bytes, size_t n_rows, const acts *a,    \
                              size_t col0, size_t n_cols, float *y, size_t y_stride,               \
                              void *scratch) {                                                     \
        matmul_kernel *matmul =                                                                    \
            n_cols <= (size_t)FEW_##acts_kind ? avx2_matmul_##stem : avx512_matmul_##stem;         \
        matmul(rows, row_bytes, n_rows, a, col0, n_cols, y, y_stride, scratch);                    \
    }
QUANT_FORMATS(X)
#undef X

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static size_t matmul_scratch(quant q, size_t n, size_t n_rows, size_t n_cols) {
    const size_t few = n_cols < FEW_ACTS_Q8_256 ? n_cols : FEW_ACTS_Q8_256;
    return larger(avx512_matmul_scratch(q, n, n_rows, n_cols),
                  avx2_matmul_scratch(q, n, n_rows, few));
}

const kernels kernels_avx512_amd = {
    .name = "avx512_amd",
    .is_available = isa_has_avx512_amd,
    .task_macs = 256 << 20,
    .matmul =
        {
#define X(name, stem, ggml_id, block_dim, block_bytes, acts_kind) [QUANT_##name] = matmul_##stem,
            QUANT_FORMATS(X)
#undef X
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
    .matmul_scratch = matmul_scratch,
    .attend_scratch = avx512_attend_scratch,
};
