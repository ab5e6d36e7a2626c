/* task_hands: the tasks of a phase dealt to threads. Each thread's hand is a run of consecutive
 * tasks, which it takes from the front, so that it reads memory in one stream; when that is empty
 * it takes from the back of the others' hands, so that nobody waits for a thread that is late.
 */
#ifndef LL_BASE_TASK_HANDS_H
#define LL_BASE_TASK_HANDS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* One thread's tasks, alone in its cache line. */
typedef struct task_hand {
    _Alignas(64) _Atomic uint64_t left; /* [first task, end) in the low and the high half */
} task_hand;

/* Deals tasks [0, n_tasks) to hands that are all empty. Tasks may be taken before it returns. */
void task_hands_deal(task_hand *hands, uint32_t n_hands, uint32_t n_tasks);

/* False where no hand has a task left. Taking a task sees all that was written before the deal. */
bool task_hands_take(task_hand *hands, uint32_t n_hands, uint32_t own, uint32_t *task);

#endif
