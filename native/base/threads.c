/* threads: workers wait for a new epoch, run the work, and meet at barriers.
 *
 * Every wait spins for a while and then sleeps on the word it watches (system_wait), so a busy
 * step costs no system call and an idle engine costs no processor time. When the machine is
 * oversubscribed the spin only delays the sleep by some tens of microseconds.
 */
#include "base/threads.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/isa.h"
#include "base/system.h"

enum { SPINS = 4000 }; /* about 50 to 100 microseconds of pauses */

typedef struct worker {
    threads *pool;
    uint32_t index;
    pthread_t handle;
} worker;

struct threads {
    uint32_t n_threads;
    uint32_t n_started; /* workers with a live handle */
    threads_work *work;
    void *arg;
    _Atomic uint32_t epoch; /* raised once per run, and once to stop */
    _Atomic bool stop;
    _Atomic uint32_t n_sleeping; /* a wake-up costs a system call, so only for sleepers */
    _Alignas(64) _Atomic uint32_t n_arrived;
    _Alignas(64) _Atomic uint32_t generation; /* of the barrier */
    worker workers[];                         /* [n_threads - 1] */
};

/* The words are plain uint32_t to the kernel; C11 atomics of that size are lock-free here. */
static void wait_while(threads *t, const _Atomic uint32_t *word, uint32_t value) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != value) return;
        isa_pause();
    }
    atomic_fetch_add(&t->n_sleeping, 1);
    while (atomic_load(word) == value) system_wait((const uint32_t *)(const void *)word, value);
    atomic_fetch_sub(&t->n_sleeping, 1);
}

/* Sequentially consistent on both sides: either this sees the sleeper, or the sleeper sees the
 * new value before the kernel lets it sleep. */
static void advance(threads *t, _Atomic uint32_t *word) {
    atomic_fetch_add(word, 1);
    if (atomic_load(&t->n_sleeping) > 0) system_wake_all((const uint32_t *)(const void *)word);
}

void threads_barrier(threads *t, threads_serial *serial, void *arg) {
    uint32_t generation = atomic_load_explicit(&t->generation, memory_order_acquire);
    uint32_t before = atomic_fetch_add_explicit(&t->n_arrived, 1, memory_order_acq_rel);
    if (before + 1 < t->n_threads) {
        wait_while(t, &t->generation, generation);
        return;
    }
    if (serial != NULL) serial(arg);
    atomic_store_explicit(&t->n_arrived, 0, memory_order_relaxed);
    if (t->n_threads > 1) advance(t, &t->generation);
}

static void *worker_main(void *p) {
    worker *w = p;
    threads *t = w->pool;
    for (uint32_t epoch = 0;; epoch++) {
        wait_while(t, &t->epoch, epoch);
        if (atomic_load_explicit(&t->stop, memory_order_acquire)) return NULL;
        t->work(t->arg, w->index);
        threads_barrier(t, NULL, NULL);
    }
}

threads *threads_open(uint32_t n_threads, ll_error *err) {
    size_t n_workers = n_threads - 1;
    size_t n_bytes = sizeof(threads) + n_workers * sizeof(worker);
    threads *t = aligned_alloc(64, (n_bytes + 63) / 64 * 64);
    if (t == NULL) {
        ll_fail(err, LL_ERR_MEMORY, "no memory for %u threads", n_threads);
        return NULL;
    }
    t->n_threads = n_threads;
    t->n_started = 0;
    atomic_init(&t->epoch, 0);
    atomic_init(&t->stop, false);
    atomic_init(&t->n_sleeping, 0);
    atomic_init(&t->n_arrived, 0);
    atomic_init(&t->generation, 0);
    /* Signals belong to the caller's threads: a worker that took one would leave them unwoken. */
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; t->n_started < n_workers; t->n_started++) {
        worker *w = &t->workers[t->n_started];
        *w = (worker){.pool = t, .index = t->n_started + 1};
        if (pthread_create(&w->handle, NULL, worker_main, w) != 0) break;
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (t->n_started == n_workers) return t;
    ll_fail(err, LL_ERR_MEMORY, "the system refused thread %u of %u", t->n_started + 2, n_threads);
    threads_close(t);
    return NULL;
}

void threads_close(threads *t) {
    if (t == NULL) return;
    atomic_store_explicit(&t->stop, true, memory_order_release);
    advance(t, &t->epoch);
    for (uint32_t i = 0; i < t->n_started; i++) (void)pthread_join(t->workers[i].handle, NULL);
    free(t);
}

uint32_t threads_count(const threads *t) { return t->n_threads; }

void threads_run(threads *t, threads_work *work, void *arg) {
    t->work = work;
    t->arg = arg;
    if (t->n_threads > 1) advance(t, &t->epoch);
    work(arg, 0);
    threads_barrier(t, NULL, NULL);
}
