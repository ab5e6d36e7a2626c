/* avx2_kernels: what AVX2, FMA and F16C have kernels for. */
#include "kernels/avx2/avx2_kernels.h"

#include "base/isa.h"
#include "kernels/avx2/avx2_tile.h"

size_t avx2_matmul_scratch(quant q, size_t n, size_t n_rows, size_t n_cols) {
    (void)n;
    const acts_kind kind = quant_table[q].acts;
    if (kind == ACTS_F32 || kind == ACTS_BF16) return avx2_float_scratch(n_cols);
    return tile_scratch(n_rows, n_cols);
}

/* Products of bytes come in pairs as int16; without the sum they would not be multiply-adds. */
#define DOT(i)                                                                                     \
    "vpmaddubsw %%ymm12, %%ymm13, %%ymm14\n\t"                                                     \
    "vpaddw %%ymm14, %%ymm" #i ", %%ymm" #i "\n\t"
#define FMA(i) "vfmadd231ps %%ymm12, %%ymm13, %%ymm" #i "\n\t"
static PEAK_LOOP(peak_int8, DOT) PEAK_LOOP(avx2_peak_float, FMA)

#define X(name, stem, ...) [QUANT_##name] = avx2_matmul_##stem,
    const kernels kernels_avx2 = {
        .name = "avx2",
        .is_available = isa_has_avx2,
        .task_macs = 256 << 20,
        .matmul = {QUANTS_FAST(X)},
        KERNELS_VECTORS(avx2),
        .attend = avx2_attend,
        .attend_merge = avx2_attend_merge,
        .matmul_scratch = avx2_matmul_scratch,
        .attend_scratch = avx2_attend_scratch,
        .peaks = {{peak_int8, PEAK_CHAINS * 32}, {avx2_peak_float, PEAK_CHAINS * 8}},
};
#undef X
