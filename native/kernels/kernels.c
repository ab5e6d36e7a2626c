/* kernels: the ordered list, and the choice from it. */
#include "kernels/kernels.h"

#include <string.h>

const kernels *const kernels_list[] = {
#if defined(__x86_64__)
    &kernels_avx512_amd, /* AMD's with AVX-512 */
    &kernels_avx512,     /* others with it */
    &kernels_avx2_vnni,  /* with AVX-VNNI and no AVX-512 */
    &kernels_avx2,       /* all others of the last ten years */
#elif defined(__aarch64__)
    &kernels_neon_i8mm,    /* SMMLA */
    &kernels_neon_dotprod, /* SDOT */
    &kernels_neon,         /* all others */
#endif
    &kernels_scalar,     NULL,
};

const kernels *kernels_find(const char *name) {
    for (const kernels *const *k = kernels_list; *k; k++) {
        if ((!name || !strcmp((*k)->name, name)) && (*k)->is_available()) return *k;
    }
    return NULL;
}

matmul_kernel *kernels_matmul(const kernels *k, quant q) {
    return k->matmul[q] ? k->matmul[q] : kernels_scalar.matmul[q];
}
