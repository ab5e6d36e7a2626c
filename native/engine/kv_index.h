/* kv_index: finds KV blocks by the tokens that lead to them.
 *
 * A block's content follows from its own tokens and all before it. The index gives each such
 * beginning that some block holds a name, a number, and finds it by the name of the beginning one
 * block shorter and the tokens of the last block. These are compared, not only their hash, so no
 * text can be made that finds another's blocks. A name is never given twice.
 */
#ifndef LL_ENGINE_KV_INDEX_H
#define LL_ENGINE_KV_INDEX_H

#include "device/device.h"

enum { NO_KV_BLOCK = UINT32_MAX };

typedef uint64_t kv_name; /* 0: of the beginning without tokens */

typedef struct kv_entry {
    kv_name name, parent;
    uint32_t next;               /* entry of the same bucket, or the next free one, plus 1 */
    uint32_t blocks[MAX_GROUPS]; /* which block of each layer group, NO_KV_BLOCK: none */
    int32_t ids[BLOCK_POSITIONS];
} kv_entry;

typedef struct kv_index {
    kv_entry *entries; /* [n_entries] as many as there are blocks */
    uint32_t n_entries;
    uint32_t n_used;     /* entries from here on were never used */
    uint32_t first_free; /* of those used before, plus 1 */
    uint32_t *buckets;   /* [n_buckets] entry plus 1; a power of two */
    uint32_t n_buckets;
    uint32_t *entry_of[MAX_GROUPS]; /* [blocks of the group] entry that has the block, plus 1 */
    kv_name last_name;
} kv_index;

bool kv_index_open(kv_index *x, const uint32_t *n_blocks, uint32_t n_groups, ll_error *err);
void kv_index_close(kv_index *x);
size_t kv_index_bytes(const uint32_t *n_blocks, uint32_t n_groups);

/* The beginning `parent` with the tokens ids [BLOCK_POSITIONS] behind it; NULL where no block holds
 * it. */
const kv_entry *kv_index_find(const kv_index *x, kv_name parent, const int32_t *ids);
/* Says that a block holds it now: one that the index does not have, in a group of which it has no
 * block for this beginning. Returns the entry. */
const kv_entry *kv_index_add(kv_index *x, kv_name parent, const int32_t *ids, uint32_t group,
                             uint32_t block);
/* The block's content is about to change. */
void kv_index_forget(kv_index *x, uint32_t group, uint32_t block);

#endif
