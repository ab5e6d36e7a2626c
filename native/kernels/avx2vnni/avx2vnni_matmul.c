/* avx2vnni_matmul: the integer kernels of AVX2 compiled once more, with vpdpbusd where those have
 * vpmaddubsw; avx2_step.h holds all that differs.
 */
#define STEP_VNNI

#include "kernels/avx2/avx2_matmul_256.c"
#include "kernels/avx2/avx2_matmul_32.c"
