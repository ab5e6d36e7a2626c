/* unicode: see unicode.h. The class of a code point is found by bisecting the generated runs. */
#include "text/unicode.h"

#include <string.h>

#include "text/unicode_tables.h"

enum { CLASS_BITS = 3, N_RUNS = sizeof unicode_runs / sizeof unicode_runs[0] };

uint32_t unicode_decode(const char *text, size_t n_bytes, size_t *length, bool *valid) {
    const unsigned char *s = (const unsigned char *)text;
    *length = 1;
    *valid = true;
    if (s[0] < 0x80) return s[0];
    size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    *valid = false;
    if (s[0] < 0xc2 || s[0] > 0xf4 || n > n_bytes) return UNICODE_REPLACEMENT;
    uint32_t code = s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) return UNICODE_REPLACEMENT;
        code = code << 6 | (s[i] & 0x3fu);
    }
    if (code < smallest[n] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        return UNICODE_REPLACEMENT;
    *length = n;
    *valid = true;
    return code;
}

size_t unicode_encode(uint32_t code, char out[4]) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code & 0x3f));
        code >>= 6;
    }
    out[0] = (char)((0xf00u >> n & 0xf0) | code);
    return n;
}

unicode_class unicode_classify(uint32_t code) {
    size_t low = 0, high = N_RUNS; /* the run lies in [low, high) */
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (unicode_runs[middle] >> CLASS_BITS <= code)
            low = middle;
        else
            high = middle;
    }
    return (unicode_class)(unicode_runs[low] & ((1u << CLASS_BITS) - 1));
}

size_t unicode_valid_prefix(const char *text, size_t n_bytes) {
    size_t at = 0;
    while (at < n_bytes) {
        uint64_t eight;
        if (n_bytes - at >= sizeof eight) {
            memcpy(&eight, text + at, sizeof eight);
            if ((eight & UINT64_C(0x8080808080808080)) == 0) {
                at += sizeof eight;
                continue;
            }
        }
        size_t length;
        bool valid;
        (void)unicode_decode(text + at, n_bytes - at, &length, &valid);
        if (!valid) break;
        at += length;
    }
    return at;
}
