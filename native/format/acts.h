/* acts: activations as the dots read them, in one layout for every instruction set.
 *
 * Columns are the rows of a batch: column c belongs to row c. Values are stored in their natural
 * order, so a kernel broadcasts from or loads straight out of a column:
 *
 *   ACTS_F32   f32  [n_cols][n]          for F32 and F16 weights
 *   ACTS_BF16  bf16 [n_cols][n]          for BF16 weights, rounded to nearest even
 *   ACTS_Q8_32   q  [n_cols][n]       int8 per value, |q| <= 127
 *                d  [n_cols][n / 32]  f32 scale per 32 values
 *               sum [n_cols][n / 32]  f32, the exact sum of the 32 q
 *   ACTS_Q8_256  q  [n_cols][n]       int8 per value
 *                d  [n_cols][n / 256] f32 scale per 256 values
 *             sums  [n_cols][n / 16]  int16, the exact sum of 16 q
 */
#ifndef LL_FORMAT_ACTS_H
#define LL_FORMAT_ACTS_H

#include <stddef.h>
#include <stdint.h>

typedef enum acts_kind { ACTS_F32, ACTS_BF16, ACTS_Q8_32, ACTS_Q8_256, ACTS_KIND_COUNT } acts_kind;

typedef struct acts {
    acts_kind kind;
    size_t n; /* values per column */
    size_t n_cols;
    union {
        float *f32;     /* ACTS_F32 */
        uint16_t *bf16; /* ACTS_BF16 */
        int8_t *q;      /* ACTS_Q8_32, ACTS_Q8_256 */
    };
    float *d;
    float *sum;    /* ACTS_Q8_32 */
    int16_t *sums; /* ACTS_Q8_256 */
} acts;

/* Bytes that n_cols columns of n values need; n is a multiple of 32 (Q8_32) or 256 (Q8_256). */
size_t acts_bytes(acts_kind kind, size_t n, size_t n_cols);

/* Lays the arrays of `a` out in memory (64-byte aligned, acts_bytes long). */
void acts_place(acts *a, acts_kind kind, size_t n, size_t n_cols, void *memory);

/* The scalar truth: rounds the n values of x into column `col`. Scale d = amax / 127,
 * q = round to nearest even of x * (127 / amax); amax < 1e-30 is a zero block with d = 0. A block
 * that holds a value that is not finite gets d = NaN and q = 0, so the fault shows downstream. */
void acts_quantize(acts *a, size_t col, const float *x);

#endif
