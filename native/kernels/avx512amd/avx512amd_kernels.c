/* avx512amd_kernels: AVX-512 as AMD's processors like it. With few columns a product is bound by
 * reading its weights, and there the streams of AVX2 (rows side by side, the next ones fetched by
 * software) read faster than those of AVX-512 (lanes pages apart, left to the processor's own
 * fetching). Both return the same bits, so each product goes to whoever is faster for it. Measured
 * on two cores of Zen 4, tokens/s of a 1B model with one column: Q4_K 24 -> 36, Q6_K 16 -> 28,
 * Q4_0 30 -> 45; F16 is slower with AVX2.
 */
#include "base/isa.h"
#include "kernels/avx2/avx2_kernels.h"
#include "kernels/avx512/avx512_kernels.h"

/* The most columns that AVX2 takes, by the activations of a quant. */
enum { FEW_ACTS_F32 = 0, FEW_ACTS_BF16 = 0, FEW_ACTS_Q8_32 = 1, FEW_ACTS_Q8_256 = 4 };

#define X(name, stem, ggml_id, block_dim, block_bytes, acts_kind)                                  \
    static void matmul_##stem(const product *p) {                                                  \
        (p->n_cols <= (size_t)FEW_##acts_kind ? avx2_matmul_##stem : avx512_matmul_##stem)(p);     \
    }
QUANTS_FAST(X)
#undef X

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static size_t matmul_scratch(quant q, size_t n, size_t n_rows, size_t n_cols) {
    const size_t few = n_cols < FEW_ACTS_Q8_256 ? n_cols : FEW_ACTS_Q8_256;
    return larger(avx512_matmul_scratch(q, n, n_rows, n_cols),
                  avx2_matmul_scratch(q, n, n_rows, few));
}

/* Zen 4 has execution units to spare for conversions beside the multiplications: F16 costs none of
 * their time, a multiplication by the scale in four is what Q8_0 costs, and Q4_0 more. Against
 * converting first, two cores, time of a chunk of 64 positions out of memory: F16 1.5 to 2 times as
 * fast with 5 to 8 rows, 1.3 with 16, 1.02 to 1.04 with 64; Q8_0 1.2 to 1.3 with 5 to 8, the same
 * with 16, 0.9 with 32. */
static void attend(const attend_chunk *chunk, const float *q, size_t q_stride, size_t n_rows,
                   float scale, const uint8_t *first, const uint8_t *last, attend_state *state,
                   void *scratch) {
    static const size_t most_direct[KV_TYPE_COUNT] = {
        [KV_F16] = SIZE_MAX, [KV_Q8_0] = 16, [KV_Q4_0] = 8};
    avx512_attend_direct(most_direct, chunk, q, q_stride, n_rows, scale, first, last, state,
                         scratch);
}

#define X(name, stem, ...) [QUANT_##name] = matmul_##stem,
const kernels kernels_avx512_amd = {
    .name = "avx512_amd",
    .is_available = isa_has_avx512_amd,
    .task_macs = 256 << 20,
    .matmul = {QUANTS_FAST(X)},
    KERNELS_VECTORS(avx512),
    .attend = attend,
    .attend_merge = avx512_attend_merge,
    .matmul_scratch = matmul_scratch,
    .attend_scratch = avx512_attend_scratch,
    .peaks = {{avx512_peak_int8, PEAK_CHAINS * 64}, {avx512_peak_float, PEAK_CHAINS * 16}},
};
#undef X
