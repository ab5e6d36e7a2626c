/* encode_avx2: the encoders compiled for AVX2; the bits are the portable ones'. */
#include "quantize/encode.h"

const encode_table encode_table_avx2 = {
#define X(name, stem, ...) .encode[QUANT_##name] = encode_##stem,
    QUANTS(X)
#undef X
        .decode_f16 = decode_f16,
};
