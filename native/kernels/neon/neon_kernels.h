/* neon_kernels: what every set of NEON kernels shares, since base armv8-a has all that it uses: the
 * kernels over vectors, of attention and of floats.
 */
#ifndef LL_KERNELS_NEON_KERNELS_H
#define LL_KERNELS_NEON_KERNELS_H

#include "kernels/kernels.h"

KERNELS_DECLARE(neon);

#define X(name, stem, ...) matmul_kernel neon_matmul_##stem;
QUANTS_FLOAT(X)
#undef X

void neon_peak_float(uint64_t n_turns);

#endif
