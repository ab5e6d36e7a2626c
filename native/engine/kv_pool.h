/* kv_pool: which KV blocks are free, and how many sessions hold each.
 *
 * A block holds BLOCK_POSITIONS positions of one layer group; its memory is the device's. Blocks
 * are reference-counted so that sessions can share a prefix.
 */
#ifndef LL_ENGINE_KV_POOL_H
#define LL_ENGINE_KV_POOL_H

#include "base/error.h"

typedef struct kv_pool {
    uint32_t n_blocks;
    uint32_t n_free;
    uint32_t *free_blocks; /* [n_free] used as a stack: the lowest ids go out first */
    uint32_t *references;  /* [n_blocks] */
} kv_pool;

bool kv_pool_open(kv_pool *p, uint32_t n_blocks, ll_error *err);
void kv_pool_close(kv_pool *p);

/* A block with one reference; the pool must have one free. */
uint32_t kv_pool_take(kv_pool *p);
void kv_pool_drop(kv_pool *p, uint32_t block);
/* One more reference to a block that has some. */
void kv_pool_share(kv_pool *p, uint32_t block);
bool kv_pool_is_shared(const kv_pool *p, uint32_t block);

#endif
