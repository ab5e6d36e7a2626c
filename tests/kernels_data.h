/* kernels_data: what kernels are compared on. One generator draws everything, so the same seed
 * gives the same data on every machine.
 */
#ifndef LL_TESTS_KERNELS_DATA_H
#define LL_TESTS_KERNELS_DATA_H

#include <stddef.h>
#include <stdint.h>

#include "format/acts.h"
#include "format/quant.h"

/* Says why nothing could be compared, and ends the program with status 2. */
void fail_with(const char *message);

/* Zeroed and 64-byte aligned; for free. */
void *allocate(size_t n_bytes);

void draw_from(uint64_t seed);
uint32_t draw(void);
uint32_t draw_below(uint32_t n);
float draw_unit(void);                     /* in [-1, 1) */
float draw_scaled(int low, int high);      /* any sign and fraction, an exponent in [low, high) */
float *draw_vector(size_t n, float scale); /* in [-scale, scale); for free */

/* Weights and activations as they come, at the ends of their ranges, or so small that results are
 * subnormal or zeros of either sign. */
typedef enum data_kind { PLAIN, ENDS, TINY, DATA_KINDS } data_kind;

/* Rows that end where readable memory ends: a kernel may not read one byte more. */
uint8_t *draw_rows(quant q, data_kind kind, size_t n_rows, size_t n);
void release_rows(uint8_t *rows, size_t n_bytes);

/* The activations of n_cols columns; free its q. */
acts draw_acts(acts_kind acts_as, data_kind kind, size_t n, size_t n_cols);

#endif
