/* merger: joining neighbours, best first, which is all that BPE and SentencePiece do.
 *
 * Symbols are a linked list over an array; candidate pairs wait in a binary heap. A pair that went
 * stale is recognised when it comes up, never searched for, so n symbols cost n log n.
 */
#ifndef LL_TEXT_MERGER_H
#define LL_TEXT_MERGER_H

#include "base/error.h"

typedef struct merge_symbol {
    int32_t id;      /* -1: no token */
    uint32_t start;  /* where its text starts; the encoder's own measure */
    uint32_t length; /* in the same measure; 0 once joined to its left neighbour */
    uint32_t previous;
    uint32_t next; /* MERGE_NONE: none */
} merge_symbol;

#define MERGE_NONE UINT32_MAX

typedef struct merge_pair {
    uint64_t order;  /* rank of the merge, then index of the left symbol: the lowest goes first */
    uint32_t length; /* of both symbols together when they were paired */
    int32_t id;      /* of the token they make */
} merge_pair;

/* Whether two neighbours make a token: its id (-1: no) and rank, the lowest first. */
typedef int32_t merge_rule(const void *rules, const merge_symbol *left, const merge_symbol *right,
                           uint32_t *rank);

/* Working memory of one encode call; starts as all zeros. */
typedef struct merger {
    merge_symbol *symbols; /* [capacity] */
    merge_pair *heap;      /* [2 * capacity] */
    size_t n_symbols, n_pairs, capacity;
} merger;

/* Empties the list and makes room for n symbols. */
bool merger_start(merger *m, size_t n, ll_error *err);
void merger_release(merger *m);

static inline void merger_add(merger *m, int32_t id, uint32_t start, uint32_t length) {
    m->symbols[m->n_symbols++] = (merge_symbol){.id = id, .start = start, .length = length};
}

/* Joins until no rule applies. What is left: symbols whose length is not 0, in order. */
void merger_run(merger *m, merge_rule *rule, const void *rules);

#endif
