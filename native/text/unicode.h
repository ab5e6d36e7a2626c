/* unicode: UTF-8 to code points, and the few classes of code points that splitting text needs.
 *
 * Decoding is strict: what is cut short, overlong, a surrogate or beyond U+10FFFF is not a
 * character, and each such byte stands for U+FFFD on its own.
 */
#ifndef LL_TEXT_UNICODE_H
#define LL_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { UNICODE_REPLACEMENT = 0xfffd };

/* The numbers are those of unicode_tables.h; END is the class of what follows the last character.
 */
typedef enum unicode_class {
    UNICODE_OTHER,
    UNICODE_LETTER,
    UNICODE_NUMBER,
    UNICODE_SPACE,
    UNICODE_PUNCTUATION,
    UNICODE_END
} unicode_class;

/* Decodes the first character of text [n_bytes], n_bytes > 0; sets *length to 1..4 and *valid to
 * whether the bytes were a character. */
uint32_t unicode_decode(const char *text, size_t n_bytes, size_t *length, bool *valid);

/* Bytes of code, at most U+10FFFF, as UTF-8; returns how many of the 4 are used. */
size_t unicode_encode(uint32_t code, char out[4]);

unicode_class unicode_classify(uint32_t code);

/* The length of the valid UTF-8 at the start of text. */
size_t unicode_valid_prefix(const char *text, size_t n_bytes);

#endif
