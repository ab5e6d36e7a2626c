/* kv_pool: which KV blocks of one layer group are free, and how many sessions hold each.
 *
 * A block holds BLOCK_POSITIONS positions of the group; its memory is the device's. A block that
 * nobody holds any more keeps its content until it is taken again, so whoever can name it
 * (kv_index) may share it until then. Those are taken first, the one that was given back first of
 * all; a block that was never used stays untouched memory as long as there is another.
 */
#ifndef LL_ENGINE_KV_POOL_H
#define LL_ENGINE_KV_POOL_H

#include "base/error.h"

typedef struct kv_link {
    uint32_t older, newer;
} kv_link;

typedef struct kv_pool {
    uint32_t n_blocks;
    uint32_t n_used;      /* blocks [n_used, n_blocks) were never taken */
    uint32_t n_free;      /* blocks without references */
    uint32_t *references; /* [n_blocks] */
    kv_link *links;       /* [n_blocks + 1] a ring of the used blocks without references, through
                             the last one, which is no block */
} kv_pool;

bool kv_pool_open(kv_pool *p, uint32_t n_blocks, ll_error *err);
void kv_pool_close(kv_pool *p);
size_t kv_pool_bytes(uint32_t n_blocks);

/* A block with one reference, whose content is nobody's any more; the pool must have one free. */
uint32_t kv_pool_take(kv_pool *p);
void kv_pool_drop(kv_pool *p, uint32_t block);
/* One more reference to a block, which may have none. */
void kv_pool_share(kv_pool *p, uint32_t block);
bool kv_pool_is_shared(const kv_pool *p, uint32_t block);

#endif
