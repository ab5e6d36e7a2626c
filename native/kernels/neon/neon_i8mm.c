/* skeleton */
#include "base/isa.h"
#include "kernels/neon/neon_vector.h"

const kernels kernels_neon_i8mm = {
    .name = "neon_i8mm",
    .is_available = isa_has_neon_i8mm,
    .quantize = neon_quantize,
    .rms_norm = neon_rms_norm,
    .add = neon_add,
    .silu_mul = neon_silu_mul,
    .gelu_mul = neon_gelu_mul,
    .to_f16 = neon_to_f16,
    .attend = neon_attend,
    .attend_merge = neon_attend_merge,
};
