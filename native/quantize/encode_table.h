/* encode_table: the encoders of one instruction set, a function a quant. */
#ifndef LL_QUANTIZE_ENCODE_TABLE_H
#define LL_QUANTIZE_ENCODE_TABLE_H

#include "format/quant.h"

/* The largest value that an encoder of blocks takes: the squares of more would be infinite. */
#define ENCODE_LARGEST 1e15f

/* n_blocks blocks of finite values x; w [as many] is how much the square of each one's error
 * counts, NULL: all the same. */
typedef void encode_blocks(const float *x, const float *w, size_t n_blocks, void *out);

typedef struct encode_table {
    encode_blocks *encode[QUANT_COUNT];
    void (*decode_f16)(const uint16_t *from, float *to, size_t n); /* what most sources are */
} encode_table;

extern const encode_table encode_table_portable;
#if defined(__x86_64__)
extern const encode_table encode_table_avx2;
#endif

#endif
