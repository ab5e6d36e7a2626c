/* peak: how fast a processor multiplies and adds, one pair of loops for each kind of kernels.
 *
 * A loop is nothing but independent chains of the one instruction that the kernels live by, so its
 * rate is the ceiling of anything they can do.
 */
#ifndef LL_MACHINE_PEAK_H
#define LL_MACHINE_PEAK_H

#include <stdint.h>

#include "localllm.h"

typedef struct peak_loop {
    void (*run)(uint64_t n_turns);
    uint64_t macs; /* multiply-adds of one turn */
} peak_loop;

/* The loop for kernels of that name, the portable one where they have none of their own. */
peak_loop peak_find(const char *kernels, ll_arithmetic arithmetic);

#endif
