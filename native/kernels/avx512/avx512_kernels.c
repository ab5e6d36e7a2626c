/* avx512_kernels: what AVX-512 (F, BW, DQ, VL, VNNI) has kernels for. */
#include "kernels/avx512/avx512_kernels.h"

#include "base/isa.h"
#include "kernels/avx512/avx512_tile.h"

size_t avx512_matmul_scratch(quant q, size_t n, size_t n_rows, size_t n_cols) {
    const acts_kind kind = quant_table[q].acts;
    return kind == ACTS_F32 || kind == ACTS_BF16 ? avx512_float_scratch(q, n, n_rows, n_cols)
                                                 : avx512_tile_scratch(n_rows, n_cols);
}

#define DOT(i) "vpdpbusd %%zmm12, %%zmm13, %%zmm" #i "\n\t"
#define FMA(i) "vfmadd231ps %%zmm12, %%zmm13, %%zmm" #i "\n\t"
PEAK_LOOP(avx512_peak_int8, DOT)
PEAK_LOOP(avx512_peak_float, FMA)

#define X(name, stem, ...) [QUANT_##name] = avx512_matmul_##stem,
const kernels kernels_avx512 = {
    .name = "avx512",
    .is_available = isa_has_avx512,
    .task_macs = 256 << 20,
    .matmul = {QUANTS_FAST(X)},
    KERNELS_VECTORS(avx512),
    .attend = avx512_attend,
    .attend_merge = avx512_attend_merge,
    .matmul_scratch = avx512_matmul_scratch,
    .attend_scratch = avx512_attend_scratch,
    .peaks = {{avx512_peak_int8, PEAK_CHAINS * 64}, {avx512_peak_float, PEAK_CHAINS * 16}},
};
#undef X
