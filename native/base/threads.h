/* threads: a persistent pool that works through phases of independent tasks.
 *
 * A phase is over when all its tasks are, not when all threads have come: a thread that the system
 * has taken off its core holds up only the task it was in the middle of, and the others do the rest
 * of its hand. Whoever ends a phase opens the next one. The caller is thread 0.
 */
#ifndef LL_BASE_THREADS_H
#define LL_BASE_THREADS_H

#include "base/error.h"

typedef struct threads threads;

/* The workers run with exact arithmetic (isa_enter_exact) and without signals. */
threads *threads_open(uint32_t n_threads, ll_error *err);
void threads_close(threads *t);
uint32_t threads_count(const threads *t);

/* Opens phase after phase: next(arg) says how many tasks the next one has, 0 being the end, and
 * task(arg, i, thread) runs each of them once. No task runs while next does, and every thread sees
 * what next and the tasks of earlier phases wrote. */
typedef uint32_t threads_next(void *arg);
typedef void threads_task(void *arg, uint32_t task, uint32_t thread);
void threads_run_phases(threads *t, threads_next *next, threads_task *task, void *arg);

/* One phase of so many tasks. A single task is run by the caller, who then wakes nobody. */
void threads_run_tasks(threads *t, uint32_t n_tasks, threads_task *task, void *arg);

/* Runs work(arg, i) for i in [0, n_threads), each on a thread of its own unless one is late. */
typedef void threads_work(void *arg, uint32_t thread);
void threads_run(threads *t, threads_work *work, void *arg);

#endif
