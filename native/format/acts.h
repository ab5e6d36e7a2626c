/* acts: activations as the dots read them, in one layout for every instruction set.
 *
 * Columns are the rows of a batch: column c belongs to row c. Integers lie block by block, a block
 * of all columns side by side, so that many columns stream through a cache that holds one block of
 * many weight rows, and no power of two lies between two columns:
 *
 *   ACTS_F32   f32  [n_cols][n]           for F32 and F16 weights
 *   ACTS_BF16  bf16 [n_cols][n]           for BF16 weights, rounded to nearest even
 *   ACTS_Q8_32   q  [n / 32][n_cols][32]  int8 per value, |q| <= 127
 *                d  [n / 32][n_cols]      f32 scale per 32 values
 *               sum [n / 32][n_cols]      f32, the exact sum of the 32 q
 *   ACTS_Q8_256  q  [n / 256][n_cols][256] int8 per value
 *                d  [n / 256][n_cols]      f32 scale per 256 values
 *             sums  [n / 256][n_cols][16]  int16, the exact sums of 16 q each
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

/* Where block `block` of a column lies, counted in blocks. */
static inline size_t acts_block(const acts *a, size_t block, size_t col) {
    return block * a->n_cols + col;
}

/* Bytes that n_cols columns of n values need; n is a multiple of 32 (Q8_32) or 256 (Q8_256). */
size_t acts_bytes(acts_kind kind, size_t n, size_t n_cols);

/* Lays the arrays of `a` out in memory (64-byte aligned, acts_bytes long). */
void acts_place(acts *a, acts_kind kind, size_t n, size_t n_cols, void *memory);

/* The scalar truth: rounds the n values of x into column `col`. Scale d = amax / 127,
 * q = round to nearest even of x * (127 / amax); amax < 1e-30 is a zero block with d = 0. A block
 * that holds a value that is not finite gets d = NaN and q = 0, so the fault shows downstream. */
void acts_quantize(acts *a, size_t col, const float *x);

#endif
