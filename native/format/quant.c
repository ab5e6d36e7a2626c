/* quant: the table itself. A new format is one line in quant_formats.h, its block struct in
 * quant_blocks.h and one decode function in the file of its kind.
 */
#include "format/quant.h"

#include "format/quant_blocks.h"

#define X(label, stem, id, dim, bytes, kind)                                                       \
    [QUANT_##label] = {.name = #label,                                                             \
                       .ggml_id = id,                                                              \
                       .block_dim = dim,                                                           \
                       .block_bytes = bytes,                                                       \
                       .acts = kind,                                                               \
                       .dequantize = quant_##stem##_dequantize,                                    \
                       .dot = quant_##stem##_dot},
const quant_traits quant_table[QUANT_COUNT] = {QUANTS(X)};
#undef X

const quant_traits *quant_find(uint32_t ggml_id) {
    for (int q = 0; q < QUANT_COUNT; q++) {
        if (quant_table[q].ggml_id == ggml_id) return &quant_table[q];
    }
    return NULL;
}
