/* task_hands: a hand is one 64-bit word, so both its ends move by one compare-and-swap. */
#include "base/task_hands.h"

static uint64_t run_of(uint32_t first, uint32_t end) { return (uint64_t)end << 32 | first; }

void task_hands_deal(task_hand *hands, uint32_t n_hands, uint32_t n_tasks) {
    for (uint32_t i = 0; i < n_hands; i++) {
        uint64_t first = (uint64_t)n_tasks * i / n_hands;
        uint64_t end = (uint64_t)n_tasks * (i + 1) / n_hands;
        atomic_store_explicit(&hands[i].left, run_of((uint32_t)first, (uint32_t)end),
                              memory_order_release);
    }
}

static bool take_one(task_hand *hand, bool from_front, uint32_t *task) {
    uint64_t left = atomic_load_explicit(&hand->left, memory_order_relaxed), rest;
    do {
        uint32_t first = (uint32_t)left, end = (uint32_t)(left >> 32);
        if (first >= end) return false;
        *task = from_front ? first : end - 1;
        rest = from_front ? run_of(first + 1, end) : run_of(first, end - 1);
    } while (!atomic_compare_exchange_weak_explicit(&hand->left, &left, rest, memory_order_acquire,
                                                    memory_order_relaxed));
    return true;
}

bool task_hands_take(task_hand *hands, uint32_t n_hands, uint32_t own, uint32_t *task) {
    if (take_one(&hands[own], true, task)) return true;
    for (uint32_t i = 1; i < n_hands; i++)
        if (take_one(&hands[(own + i) % n_hands], false, task)) return true;
    return false;
}
