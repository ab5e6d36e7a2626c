/* quant: the table of stored weight formats, one row a format.
 *
 * A row gives the block's size, what kind of activations its dot takes, and the scalar truth:
 * dequantize and dot. Every kernel on every instruction set returns the bits of `dot`.
 */
#ifndef LL_FORMAT_QUANT_H
#define LL_FORMAT_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/acts.h"
#include "format/quant_formats.h"

/* The order is the list's; ggml's number is in the row. */
typedef enum quant {
#define X(name, ...) QUANT_##name,
    QUANTS(X)
#undef X
        QUANT_COUNT
} quant;

typedef struct quant_traits {
    const char *name;
    uint32_t ggml_id;
    uint32_t block_dim; /* values per block */
    uint32_t block_bytes;
    acts_kind acts; /* the activations its dot takes */
    /* n values (a multiple of block_dim) from n/block_dim blocks; equals gguf's bits. */
    void (*dequantize)(const void *blocks, float *out, size_t n);
    /* One row of n weights with column `col` of a; the truth every kernel must match bit for bit.
     */
    float (*dot)(const void *row, const acts *a, size_t col);
} quant_traits;

extern const quant_traits quant_table[QUANT_COUNT];

/* The quant with ggml's number, or NULL where this engine has none. */
const quant_traits *quant_find(uint32_t ggml_id);

static inline size_t quant_row_bytes(const quant_traits *q, size_t n) {
    return n / q->block_dim * q->block_bytes;
}

#endif
