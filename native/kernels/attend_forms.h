/* attend_forms: what attention has in common whatever the width of registers: the forms that keys
 * and values are found as, how many rows are computed together, and a call compiled once for each
 * number of them.
 */
#ifndef LL_KERNELS_ATTEND_FORMS_H
#define LL_KERNELS_ATTEND_FORMS_H

#include <stdbool.h>

#include "format/kv.h"

enum {
    ROWS = 4,          /* of a block of scores, or of results */
    SHARING_ROWS = 64, /* rows that share one conversion */
};

/* What keys or values are found as: converted, or one of the stored types. */
typedef enum form { F32, F16, Q8, Q4, N_FORMS } form;

#define STORED(X) X(F16) X(Q8) X(Q4)

static const form form_of[KV_TYPE_COUNT] = {[KV_F16] = F16, [KV_Q8_0] = Q8, [KV_Q4_0] = Q4};

static inline __attribute__((always_inline)) bool has_scales(form as) {
    return as == Q8 || as == Q4;
}

/* call(n) with n as a constant, so that its loops are unrolled and its arrays are registers: for 1
 * to ROWS rows, and for those that are left behind blocks of ROWS, which may be none. */
#define WITH_CONSTANT_ROWS(n_rows, call)                                                           \
    switch (n_rows) {                                                                              \
        ROWS_LEFT(call)                                                                            \
    default:                                                                                       \
        call(ROWS);                                                                                \
        break;                                                                                     \
    }
#define WITH_CONSTANT_REST(n_rows, call)                                                           \
    switch (n_rows) {                                                                              \
        ROWS_LEFT(call)                                                                            \
    default:                                                                                       \
        break;                                                                                     \
    }
#define ROWS_LEFT(call)                                                                            \
    case 1:                                                                                        \
        call(1);                                                                                   \
        break;                                                                                     \
    case 2:                                                                                        \
        call(2);                                                                                   \
        break;                                                                                     \
    case 3:                                                                                        \
        call(3);                                                                                   \
        break;

#endif
