/* vocabulary: the token texts of a file, their types, and the id of a text.
 *
 * Texts stay in the mapping: 4 bytes of offset, one of type and about 12 of hash table are all a
 * token costs. A text belongs to one id; a file that gives it to two is malformed.
 */
#ifndef LL_TEXT_VOCABULARY_H
#define LL_TEXT_VOCABULARY_H

#include "format/gguf.h"

/* tokenizer.ggml.token_type */
typedef enum token_type {
    TOKEN_UNDEFINED,
    TOKEN_NORMAL,
    TOKEN_UNKNOWN,
    TOKEN_CONTROL,
    TOKEN_USER_DEFINED,
    TOKEN_UNUSED,
    TOKEN_BYTE
} token_type;

typedef struct vocabulary_slot {
    uint32_t hash;
    uint32_t id_plus_one; /* 0: free */
} vocabulary_slot;

typedef struct vocabulary {
    uint32_t n_tokens;
    const char *texts;      /* borrowed from the mapping */
    uint32_t *starts;       /* [n_tokens + 1] text i is texts[starts[i]] up to starts[i + 1] - 8 */
    uint8_t *types;         /* [n_tokens] token_type */
    vocabulary_slot *slots; /* [slot_mask + 1], open addressing */
    size_t slot_mask;
    size_t longest; /* bytes of the longest text */
    size_t memory_bytes;
} vocabulary;

bool vocabulary_open(vocabulary *v, const gguf *g, ll_error *err);
void vocabulary_close(vocabulary *v);

ll_string vocabulary_text(const vocabulary *v, int32_t id);

/* -1: none. An empty text belongs to nobody. */
int32_t vocabulary_find(const vocabulary *v, const char *text, size_t n_bytes);

/* As vocabulary_find, but never a control or unknown token: what plain text may become. */
int32_t vocabulary_find_plain(const vocabulary *v, const char *text, size_t n_bytes);

static inline bool vocabulary_has(const vocabulary *v, int32_t id) {
    return id >= 0 && (uint32_t)id < v->n_tokens;
}

/* Slots of a hash table that holds n entries and stays at most three quarters full. */
size_t vocabulary_slot_count(size_t n);

#endif
