/* encode_portable: the encoders for whatever the compiler takes by default. */
#include "quantize/encode.h"

#include "format/quant_formats.h"

const encode_table encode_table_portable = {
#define X(name, stem, ggml_id, block_dim, block_bytes, acts_kind)                                  \
    .encode[QUANT_##name] = encode_##stem,
    QUANT_FORMATS(X)
#undef X
        .decode_f16 = decode_f16,
};
