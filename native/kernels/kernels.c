/* kernels: the ordered list, and the choice from it. */
#include "kernels/kernels.h"

#include <string.h>

#define X(name) &kernels_##name,
const kernels *const kernels_list[] = {KERNELS_LIST(X) NULL};
#undef X

const kernels *kernels_find(const char *name) {
    for (const kernels *const *k = kernels_list; *k; k++) {
        if ((!name || !strcmp((*k)->name, name)) && (*k)->is_available()) return *k;
    }
    return NULL;
}

matmul_kernel *kernels_matmul(const kernels *k, quant q) {
    return k->matmul[q] ? k->matmul[q] : kernels_scalar.matmul[q];
}
