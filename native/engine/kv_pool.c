/* kv_pool: a count of references for each block, and the ring of those that have none. */
#include "engine/kv_pool.h"

#include <assert.h>
#include <stdlib.h>

bool kv_pool_open(kv_pool *p, uint32_t n_blocks, ll_error *err) {
    *p = (kv_pool){.n_blocks = n_blocks, .n_free = n_blocks};
    p->references = calloc(n_blocks, sizeof *p->references);
    p->links = malloc(((size_t)n_blocks + 1) * sizeof *p->links);
    if (p->references == NULL || p->links == NULL) {
        kv_pool_close(p);
        return ll_fail(err, LL_ERR_MEMORY, "no memory for a table of %u KV blocks", n_blocks);
    }
    p->links[n_blocks] = (kv_link){n_blocks, n_blocks};
    return true;
}

void kv_pool_close(kv_pool *p) {
    free(p->references);
    free(p->links);
    *p = (kv_pool){0};
}

size_t kv_pool_bytes(uint32_t n_blocks) {
    return n_blocks * sizeof(uint32_t) + ((size_t)n_blocks + 1) * sizeof(kv_link);
}

static void unlink_block(kv_pool *p, uint32_t block) {
    kv_link *link = &p->links[block];
    p->links[link->older].newer = link->newer;
    p->links[link->newer].older = link->older;
}

uint32_t kv_pool_take(kv_pool *p) {
    uint32_t block = p->links[p->n_blocks].newer; /* behind the ring's end comes the oldest */
    if (block != p->n_blocks) {
        unlink_block(p, block);
    } else {
        assert(p->n_used < p->n_blocks);
        block = p->n_used++;
    }
    p->references[block] = 1;
    p->n_free--;
    return block;
}

void kv_pool_drop(kv_pool *p, uint32_t block) {
    assert(p->references[block] > 0);
    if (--p->references[block] > 0) return;
    p->n_free++;
    uint32_t end = p->n_blocks, newest = p->links[end].older;
    p->links[block] = (kv_link){.older = newest, .newer = end};
    p->links[newest].newer = block;
    p->links[end].older = block;
}

void kv_pool_share(kv_pool *p, uint32_t block) {
    assert(block < p->n_used);
    if (p->references[block]++ > 0) return;
    p->n_free--;
    unlink_block(p, block);
}

bool kv_pool_is_shared(const kv_pool *p, uint32_t block) { return p->references[block] > 1; }
