/* neon_set: the struct of one set of NEON kernels. Sets differ in the dots of integers, which their
 * files define before they include this, and in the peak of those.
 */
#ifndef LL_KERNELS_NEON_SET_H
#define LL_KERNELS_NEON_SET_H

#include "base/isa.h"
#include "kernels/neon/neon_kernels.h"

#define NEON_FLOAT_ROW(name, stem, ...) [QUANT_##name] = neon_matmul_##stem,
#define NEON_ROW(name, stem, ...)       [QUANT_##name] = matmul_##stem,

/* macs: multiply-adds of one instruction of `dot`, an instruction for PEAK_LOOP. */
#define NEON_KERNELS(set, dot, macs)                                                               \
    static PEAK_LOOP(peak_int8, dot) const kernels kernels_##set = {                               \
        .name = #set,                                                                              \
        .is_available = isa_has_##set,                                                             \
        .task_macs = 64 << 20,                                                                     \
        .matmul = {QUANTS_FLOAT(NEON_FLOAT_ROW) QUANTS_32(NEON_ROW) QUANTS_256(NEON_ROW)},         \
        KERNELS_VECTORS(neon),                                                                     \
        .attend = neon_attend,                                                                     \
        .attend_merge = neon_attend_merge,                                                         \
        .matmul_scratch = neon_matmul_scratch,                                                     \
        .attend_scratch = neon_attend_scratch,                                                     \
        .peaks = {{peak_int8, PEAK_CHAINS * (macs)}, {neon_peak_float, PEAK_CHAINS * 4}},          \
    }

#endif
