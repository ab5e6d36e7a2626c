/* localllm_quantize.h: tensors of one file written into another, in any quant that has an encoder.
 */
#ifndef LOCALLLM_QUANTIZE_H
#define LOCALLLM_QUANTIZE_H

#include "localllm.h"

typedef struct ll_quantizer ll_quantizer;

/* Rows of a tensor in a file. */
typedef struct ll_tensor_source {
    int fd;
    uint64_t offset;
    const char *type; /* a quant's name, or F8_E4M3 */
    uint64_t n_rows, row_dim;
    const uint32_t *row_order; /* [n_rows]: row i is the file's row_order[i]; NULL: as they lie */
    /* Of F8_E4M3, one for scale_rows x scale_cols values; NULL: all are 1. */
    const float *scales; /* [ceil(n_rows / scale_rows)][ceil(row_dim / scale_cols)] */
    uint32_t scale_rows, scale_cols;
} ll_tensor_source;

typedef struct ll_tensor_target {
    int fd;
    uint64_t offset;
    const char *quant;
    const float *importance; /* [row_dim] how much a column's squared errors count; NULL: all 1 */
} ll_tensor_target;

/* The sums over a tensor of importance * (x - x')^2 and importance * x^2. */
typedef struct ll_loss {
    double error, total;
} ll_loss;

ll_quantizer *ll_quantizer_open(uint32_t n_threads, ll_error *err); /* 0: usable cores */
void ll_quantizer_close(ll_quantizer *q);
/* Reads, quantizes and writes one tensor. poll(arg) is called by the calling thread some tens of
 * milliseconds apart; true ends it with CANCELLED. `loss` NULL: not measured. NUMERIC where a value
 * is not finite or out of the quant's range, IO where a file is too short or cannot be written;
 * part of the target may be written then. */
bool ll_quantizer_write(ll_quantizer *q, const ll_tensor_source *source,
                        const ll_tensor_target *target, ll_poll *poll, void *arg, ll_loss *loss,
                        ll_error *err);

#endif
