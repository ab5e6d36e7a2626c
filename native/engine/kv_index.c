/* kv_index: a hash table of entries; an entry lives as long as it has a block. */
#include "engine/kv_index.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static uint32_t count_entries(const uint32_t *n_blocks, uint32_t n_groups) {
    uint32_t n = 0;
    for (uint32_t g = 0; g < n_groups; g++) n += n_blocks[g];
    return n;
}

static uint32_t count_buckets(uint32_t n_entries) {
    uint32_t n = 16;
    while (n < n_entries && n < UINT32_MAX / 2) n *= 2;
    return n;
}

size_t kv_index_bytes(const uint32_t *n_blocks, uint32_t n_groups) {
    size_t n = count_entries(n_blocks, n_groups);
    return n * (sizeof(kv_entry) + sizeof(uint32_t)) +
           count_buckets((uint32_t)n) * sizeof(uint32_t);
}

bool kv_index_open(kv_index *x, const uint32_t *n_blocks, uint32_t n_groups, ll_error *err) {
    *x = (kv_index){.n_entries = count_entries(n_blocks, n_groups)};
    x->n_buckets = count_buckets(x->n_entries);
    x->entries = malloc((size_t)x->n_entries * sizeof *x->entries);
    x->buckets = calloc(x->n_buckets, sizeof *x->buckets);
    bool ok = x->entries != NULL && x->buckets != NULL;
    for (uint32_t g = 0; ok && g < n_groups; g++) {
        x->entry_of[g] = calloc(n_blocks[g], sizeof **x->entry_of);
        ok = x->entry_of[g] != NULL;
    }
    if (ok) return true;
    kv_index_close(x);
    return ll_fail(err, LL_ERR_MEMORY, "no memory for an index of %u KV blocks", x->n_entries);
}

void kv_index_close(kv_index *x) {
    free(x->entries);
    free(x->buckets);
    for (uint32_t g = 0; g < MAX_GROUPS; g++) free(x->entry_of[g]);
    *x = (kv_index){0};
}

static uint32_t *bucket_of(const kv_index *x, kv_name parent, const int32_t *ids) {
    const uint64_t odd = 0x9E3779B97F4A7C15u; /* 2^64 over the golden ratio */
    uint64_t hash = parent;
    for (int i = 0; i < BLOCK_POSITIONS; i++) {
        hash = (hash ^ (uint32_t)ids[i]) * odd;
        hash ^= hash >> 32;
    }
    return &x->buckets[hash & (x->n_buckets - 1)];
}

const kv_entry *kv_index_find(const kv_index *x, kv_name parent, const int32_t *ids) {
    for (uint32_t i = *bucket_of(x, parent, ids); i != 0; i = x->entries[i - 1].next) {
        const kv_entry *entry = &x->entries[i - 1];
        if (entry->parent == parent && memcmp(entry->ids, ids, sizeof entry->ids) == 0)
            return entry;
    }
    return NULL;
}

static kv_entry *make_entry(kv_index *x, kv_name parent, const int32_t *ids) {
    uint32_t i = x->first_free, *bucket = bucket_of(x, parent, ids);
    if (i != 0)
        x->first_free = x->entries[i - 1].next;
    else
        i = ++x->n_used;
    assert(i <= x->n_entries);
    kv_entry *entry = &x->entries[i - 1];
    *entry = (kv_entry){.name = ++x->last_name, .parent = parent, .next = *bucket};
    *bucket = i;
    for (uint32_t g = 0; g < MAX_GROUPS; g++) entry->blocks[g] = NO_KV_BLOCK;
    memcpy(entry->ids, ids, sizeof entry->ids);
    return entry;
}

const kv_entry *kv_index_add(kv_index *x, kv_name parent, const int32_t *ids, uint32_t group,
                             uint32_t block) {
    const kv_entry *found = kv_index_find(x, parent, ids);
    kv_entry *entry = found != NULL ? &x->entries[found - x->entries] : make_entry(x, parent, ids);
    assert(entry->blocks[group] == NO_KV_BLOCK && x->entry_of[group][block] == 0);
    entry->blocks[group] = block;
    x->entry_of[group][block] = (uint32_t)(entry - x->entries) + 1;
    return entry;
}

static void free_entry(kv_index *x, kv_entry *entry) {
    uint32_t *at = bucket_of(x, entry->parent, entry->ids);
    uint32_t i = (uint32_t)(entry - x->entries) + 1;
    while (*at != i) at = &x->entries[*at - 1].next;
    *at = entry->next;
    entry->next = x->first_free;
    x->first_free = i;
}

void kv_index_forget(kv_index *x, uint32_t group, uint32_t block) {
    uint32_t i = x->entry_of[group][block];
    if (i == 0) return;
    kv_entry *entry = &x->entries[i - 1];
    x->entry_of[group][block] = 0;
    entry->blocks[group] = NO_KV_BLOCK;
    for (uint32_t g = 0; g < MAX_GROUPS; g++)
        if (entry->blocks[g] != NO_KV_BLOCK) return;
    free_entry(x, entry);
}
