/* quantizer: rows of a tensor in one file become blocks in another.
 *
 * A tensor is dealt to the threads in chunks of rows. Whoever takes a chunk reads it, makes floats
 * of it, encodes them and writes them, so reading, computing and writing overlap without a queue,
 * and memory is a few hundred kilobytes a thread whatever the tensor's size. Chunks do not see each
 * other: the bytes are the same for every number of threads.
 */
#ifndef LL_QUANTIZE_QUANTIZER_H
#define LL_QUANTIZE_QUANTIZER_H

#include "format/quant.h"
#include "localllm_quantize.h"
#include "quantize/encode_table.h"

/* The encoders for this processor. */
const encode_table *quantizer_encoders(void);

/* False where a scale in n blocks is not a finite number: the values were out of its range. */
bool quantizer_check_blocks(quant q, const void *blocks, size_t n);

#endif
