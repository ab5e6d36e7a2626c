/* merger: see merger.h. */
#include "text/merger.h"

#include <stdlib.h>

bool merger_start(merger *m, size_t n, ll_error *err) {
    m->n_symbols = m->n_pairs = 0;
    if (n <= m->capacity) return true;
    size_t capacity = n < 256 ? 256 : 2 * m->capacity > n ? 2 * m->capacity : n;
    merger_release(m);
    /* n symbols start with n - 1 pairs, and each of at most n - 1 joins takes one pair out of the
     * heap and puts at most two in. */
    m->symbols = malloc(capacity * sizeof *m->symbols);
    m->heap = malloc(2 * capacity * sizeof *m->heap);
    if (!m->symbols || !m->heap)
        return ll_fail(err, LL_ERR_MEMORY, "no memory to tokenize a piece of %zu symbols", n);
    m->capacity = capacity;
    return true;
}

void merger_release(merger *m) {
    free(m->symbols);
    free(m->heap);
    *m = (merger){0};
}

static void push(merger *m, merge_pair pair) {
    size_t at = m->n_pairs++;
    for (; at > 0; at = (at - 1) / 2) {
        merge_pair *parent = &m->heap[(at - 1) / 2];
        if (parent->order <= pair.order) break;
        m->heap[at] = *parent;
    }
    m->heap[at] = pair;
}

static merge_pair pop(merger *m) {
    merge_pair top = m->heap[0], last = m->heap[--m->n_pairs];
    size_t at = 0;
    for (size_t child = 1; child < m->n_pairs; child = 2 * at + 1) {
        if (child + 1 < m->n_pairs && m->heap[child + 1].order < m->heap[child].order) child++;
        if (m->heap[child].order >= last.order) break;
        m->heap[at] = m->heap[child];
        at = child;
    }
    m->heap[at] = last;
    return top;
}

static void consider(merger *m, uint32_t left, merge_rule *rule, const void *rules) {
    const merge_symbol *a = &m->symbols[left];
    if (a->next == MERGE_NONE) return;
    const merge_symbol *b = &m->symbols[a->next];
    uint32_t rank;
    int32_t id = rule(rules, a, b, &rank);
    if (id >= 0) push(m, (merge_pair){(uint64_t)rank << 32 | left, a->length + b->length, id});
}

void merger_run(merger *m, merge_rule *rule, const void *rules) {
    uint32_t n = (uint32_t)m->n_symbols;
    for (uint32_t i = 0; i < n; i++) {
        m->symbols[i].previous = i > 0 ? i - 1 : MERGE_NONE;
        m->symbols[i].next = i + 1 < n ? i + 1 : MERGE_NONE;
    }
    for (uint32_t i = 0; i < n; i++) consider(m, i, rule, rules);
    while (m->n_pairs > 0) {
        merge_pair pair = pop(m);
        uint32_t at = (uint32_t)pair.order;
        merge_symbol *left = &m->symbols[at];
        /* Symbols only grow, so equal length means the same two symbols. */
        if (left->length == 0 || left->next == MERGE_NONE) continue;
        merge_symbol *right = &m->symbols[left->next];
        if (left->length + right->length != pair.length) continue;
        left->id = pair.id;
        left->length = pair.length;
        left->next = right->next;
        right->length = 0;
        if (left->next != MERGE_NONE) m->symbols[left->next].previous = at;
        if (left->previous != MERGE_NONE) consider(m, left->previous, rule, rules);
        consider(m, at, rule, rules);
    }
}
