/* merge_rules: a byte-level BPE's merges as a hash from two token ids to the token they make.
 *
 * Ids instead of texts: joining needs no string, and a merge costs one probe of 16 bytes.
 */
#ifndef LL_TEXT_MERGE_RULES_H
#define LL_TEXT_MERGE_RULES_H

#include "text/vocabulary.h"

typedef struct merge_made {
    int32_t left, right;
    int32_t id;    /* the token they make */
    uint32_t rank; /* place in the file's list plus one; 0: a free slot */
} merge_made;

typedef struct merge_rules {
    merge_made *slots; /* [slot_mask + 1], open addressing */
    size_t slot_mask;
} merge_rules;

/* Reads tokenizer.ggml.merges. */
bool merge_rules_open(merge_rules *r, const gguf *g, const vocabulary *v, ll_error *err);
void merge_rules_close(merge_rules *r);
size_t merge_rules_memory_bytes(const merge_rules *r);

/* NULL: the two do not merge. */
const merge_made *merge_rules_find(const merge_rules *r, int32_t left, int32_t right);

#endif
