/* avx2vnni_kernels: AVX2 with AVX-VNNI, which is what Intel's processors without AVX-512 have; the
 * kernels without byte products are those of AVX2.
 */
#include "base/isa.h"
#include "kernels/avx2/avx2_kernels.h"

#define DOT(i) "%{vex%} vpdpbusd %%ymm12, %%ymm13, %%ymm" #i "\n\t"
static PEAK_LOOP(peak_int8, DOT)

#define X(name, stem, ...)    [QUANT_##name] = avx2_matmul_##stem,
#define VNNI(name, stem, ...) [QUANT_##name] = avx2_vnni_matmul_##stem,
    const kernels kernels_avx2_vnni = {
        .name = "avx2_vnni",
        .is_available = isa_has_avx2_vnni,
        .task_macs = 256 << 20,
        .matmul = {QUANTS_FLOAT(X) QUANTS_32(VNNI) QUANTS_256(VNNI)},
        KERNELS_VECTORS(avx2),
        .attend = avx2_attend,
        .attend_merge = avx2_attend_merge,
        .matmul_scratch = avx2_matmul_scratch,
        .attend_scratch = avx2_attend_scratch,
        .peaks = {{peak_int8, PEAK_CHAINS * 32}, {avx2_peak_float, PEAK_CHAINS * 8}},
};
#undef X
#undef VNNI
