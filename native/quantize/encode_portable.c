/* encode_portable: the encoders for whatever the compiler takes by default. */
#include "quantize/encode.h"

const encode_table encode_table_portable = {
#define X(name, stem, ...) .encode[QUANT_##name] = encode_##stem,
    QUANTS(X)
#undef X
        .decode_f16 = decode_f16,
};
