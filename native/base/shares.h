/* shares: the tasks of a phase dealt to threads. Each thread takes its own run of consecutive tasks
 * from the front, so that it reads memory in one stream; when that is empty it takes from the back
 * of the others' runs, so that nobody waits for a thread that is late.
 */
#ifndef LL_BASE_SHARES_H
#define LL_BASE_SHARES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* One thread's run of tasks, alone in its cache line. */
typedef struct share {
    _Alignas(64) _Atomic uint64_t left; /* [first task, end) in the low and the high half */
} share;

/* Deals tasks [0, n_tasks) to shares that are all empty. Tasks may be taken before it returns. */
void shares_deal(share *shares, uint32_t n_shares, uint32_t n_tasks);

/* False where no share has a task left. Taking a task sees all that was written before the deal. */
bool shares_take(share *shares, uint32_t n_shares, uint32_t own, uint32_t *task);

#endif
