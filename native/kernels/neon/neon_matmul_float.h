/* neon_matmul_float: the matmul_kernel of each quant that is stored as floats. */
#ifndef LL_KERNELS_NEON_MATMUL_FLOAT_H
#define LL_KERNELS_NEON_MATMUL_FLOAT_H

#include "kernels/kernels.h"

matmul_kernel neon_matmul_f32, neon_matmul_f16, neon_matmul_bf16;

#endif
