/* encode_avx2: the encoders compiled for AVX2; the bits are the portable ones'. */
#include "quantize/encode.h"

#include "format/quant_formats.h"

const encode_table encode_table_avx2 = {
#define X(name, stem, ggml_id, block_dim, block_bytes, acts_kind)                                  \
    .encode[QUANT_##name] = encode_##stem,
    QUANT_FORMATS(X)
#undef X
        .decode_f16 = decode_f16,
};
