/* special: finding the tokens that are cut out of the text before anything else looks at it.
 *
 * Their texts in byte order are a trie without nodes: each further byte of the text narrows a range
 * of the sorted list. At every position the longest token wins, and the leftmost position wins over
 * the next, as Hugging Face's tokenizers choose. A search costs the text's length times, at worst,
 * the longest special token's.
 */
#ifndef LL_TEXT_SPECIAL_H
#define LL_TEXT_SPECIAL_H

#include "text/vocabulary.h"

typedef struct special_text {
    const char *data;
    uint32_t n_bytes;
    int32_t id;
} special_text;

typedef struct special {
    special_text *sorted; /* [n] control, unknown and user-defined tokens */
    size_t n;
    uint32_t first[257]; /* texts that start with byte b: sorted[first[b]] up to first[b + 1] */
    uint8_t users[256];  /* whether a user-defined text starts with byte b */
} special;

typedef struct special_match {
    size_t at, n_bytes;
    int32_t id; /* -1: none, and `at` is the text's end */
} special_match;

bool special_open(special *s, const vocabulary *v, ll_error *err);
void special_close(special *s);
size_t special_memory_bytes(const special *s);

/* The first token of text at or after `from`. Without `control`, user-defined tokens only. */
special_match special_find(const special *s, const vocabulary *v, const char *text, size_t n_bytes,
                           size_t from, bool control);

#endif
