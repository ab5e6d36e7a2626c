/* shares: a run is one 64-bit word, so both its ends move by one compare-and-swap. */
#include "base/shares.h"

static uint64_t run_of(uint32_t first, uint32_t end) { return (uint64_t)end << 32 | first; }

void shares_deal(share *shares, uint32_t n_shares, uint32_t n_tasks) {
    for (uint32_t i = 0; i < n_shares; i++) {
        uint64_t first = (uint64_t)n_tasks * i / n_shares;
        uint64_t end = (uint64_t)n_tasks * (i + 1) / n_shares;
        atomic_store_explicit(&shares[i].left, run_of((uint32_t)first, (uint32_t)end),
                              memory_order_release);
    }
}

static bool take_one(share *s, bool from_front, uint32_t *task) {
    uint64_t left = atomic_load_explicit(&s->left, memory_order_relaxed), rest;
    do {
        uint32_t first = (uint32_t)left, end = (uint32_t)(left >> 32);
        if (first >= end) return false;
        *task = from_front ? first : end - 1;
        rest = from_front ? run_of(first + 1, end) : run_of(first, end - 1);
    } while (!atomic_compare_exchange_weak_explicit(&s->left, &left, rest, memory_order_acquire,
                                                    memory_order_relaxed));
    return true;
}

bool shares_take(share *shares, uint32_t n_shares, uint32_t own, uint32_t *task) {
    if (take_one(&shares[own], true, task)) return true;
    for (uint32_t i = 1; i < n_shares; i++)
        if (take_one(&shares[(own + i) % n_shares], false, task)) return true;
    return false;
}
