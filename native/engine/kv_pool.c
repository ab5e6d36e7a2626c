/* kv_pool: a stack of free blocks and a count of references. */
#include "engine/kv_pool.h"

#include <assert.h>
#include <stdlib.h>

bool kv_pool_open(kv_pool *p, uint32_t n_blocks, ll_error *err) {
    *p = (kv_pool){.n_blocks = n_blocks, .n_free = n_blocks};
    p->free_blocks = malloc(n_blocks * sizeof(uint32_t));
    p->references = calloc(n_blocks, sizeof(uint32_t));
    if (p->free_blocks == NULL || p->references == NULL) {
        kv_pool_close(p);
        return ll_fail(err, LL_ERR_MEMORY, "no memory for a table of %u KV blocks", n_blocks);
    }
    for (uint32_t i = 0; i < n_blocks; i++) p->free_blocks[i] = n_blocks - 1 - i;
    return true;
}

void kv_pool_close(kv_pool *p) {
    free(p->free_blocks);
    free(p->references);
    *p = (kv_pool){0};
}

uint32_t kv_pool_take(kv_pool *p) {
    assert(p->n_free > 0);
    uint32_t block = p->free_blocks[--p->n_free];
    p->references[block] = 1;
    return block;
}

void kv_pool_drop(kv_pool *p, uint32_t block) {
    assert(p->references[block] > 0);
    if (--p->references[block] == 0) p->free_blocks[p->n_free++] = block;
}

void kv_pool_share(kv_pool *p, uint32_t block) {
    assert(p->references[block] > 0);
    p->references[block]++;
}

bool kv_pool_is_shared(const kv_pool *p, uint32_t block) { return p->references[block] > 1; }
