/* threads: a persistent pool that runs one function on every thread, and its barrier.
 *
 * The caller is thread 0. Workers spin briefly for the next piece of work, then sleep.
 */
#ifndef LL_BASE_THREADS_H
#define LL_BASE_THREADS_H

#include "base/error.h"

typedef struct threads threads;

threads *threads_open(uint32_t n_threads, ll_error *err);
void threads_close(threads *t);
uint32_t threads_count(const threads *t);

/* Runs work(arg, i) for i in [0, n_threads), the caller being 0; returns when all have. */
typedef void threads_work(void *arg, uint32_t thread);
void threads_run(threads *t, threads_work *work, void *arg);

/* All threads of a running threads_run meet; the last to arrive runs serial(arg) (NULL: nothing)
 * before any goes on. */
typedef void threads_serial(void *arg);
void threads_barrier(threads *t, threads_serial *serial, void *arg);

#endif
