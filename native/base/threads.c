/* threads: every thread, the caller too, takes tasks for as long as there are any and then waits
 * for the generation to change, which it does with each phase that opens and once at the end of a
 * run.
 *
 * A worker may sleep through any number of phases: it touches nothing but the pool until it has
 * taken a task, and a phase with a task taken stays open. A wait spins for a while and then sleeps
 * on the word it watches (system_wait), so a busy run costs no system call and an idle pool no
 * processor time. It spins politely: a thread that offers its core while it has no task is seldom
 * taken off it in the middle of one, which is what the others would have to wait for. How long it
 * spins follows what the last waits have shown: beside another program on the same cores most waits
 * are long, and spinning would only take its time.
 */
#include "base/threads.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/isa.h"
#include "base/system.h"
#include "base/task_hands.h"

/* Going to sleep and being woken costs some tens of microseconds: longer than that is not worth
 * spinning, and a wait that turned out longer makes the next spin shorter. */
static const double spin_most = 100e-6, spin_least = 20e-6;

/* No task keeps more than some tens of kilobytes on its stack. The usual 8 MB a thread would count
 * against the limits of the process, where it has any. */
enum { STACK_BYTES = 1 << 20 };

/* What belongs to one thread. */
typedef struct seat {
    threads *pool;
    uint32_t index;
    pthread_t handle; /* of a worker */
    double spin;      /* seconds */
} seat;

struct threads {
    uint32_t n_threads;
    uint32_t n_started; /* workers with a live handle */
    threads_next *next;
    threads_task *task;
    void *arg;
    task_hand *hands; /* [n_threads] */
    seat *seats;      /* [n_threads] */
    _Atomic bool stop, is_over;
    _Atomic uint32_t n_sleeping;              /* waking costs a system call: only for sleepers */
    _Alignas(64) _Atomic uint32_t n_left;     /* tasks of the phase that are not done */
    _Alignas(64) _Atomic uint32_t generation; /* of phases and ends of runs */
};

/* The word is plain uint32_t to the kernel; C11 atomics of that size are lock-free here. */
static const uint32_t *generation_word(const threads *t) {
    return (const uint32_t *)(const void *)&t->generation;
}

/* True once the generation is no longer `known`; false when the time is up. */
static bool spin_until(const threads *t, uint32_t known, double deadline) {
    enum { PAUSES = 16 }; /* between offers of the core */
    do {
        for (int i = 0; i < PAUSES; i++) {
            if (atomic_load_explicit(&t->generation, memory_order_acquire) != known) return true;
            isa_pause();
        }
        system_yield();
    } while (system_seconds() < deadline);
    return false;
}

static void wait_for_more(threads *t, seat *s, uint32_t known) {
    if (atomic_load_explicit(&t->generation, memory_order_acquire) != known) return;
    double start = system_seconds();
    if (!spin_until(t, known, start + s->spin)) {
        atomic_fetch_add(&t->n_sleeping, 1);
        while (atomic_load(&t->generation) == known) system_wait(generation_word(t), known);
        atomic_fetch_sub(&t->n_sleeping, 1);
    }
    s->spin = system_seconds() - start < spin_most ? s->spin * 2 : s->spin / 2;
    if (s->spin > spin_most) s->spin = spin_most;
    if (s->spin < spin_least) s->spin = spin_least;
}

/* Sequentially consistent on both sides: either this sees the sleeper, or the sleeper sees the
 * new value before the kernel lets it sleep. */
static void advance(threads *t) {
    atomic_fetch_add(&t->generation, 1);
    if (atomic_load(&t->n_sleeping) > 0) system_wake_all(generation_word(t));
}

static void open_phase(threads *t) {
    uint32_t n_tasks = t->next(t->arg);
    if (n_tasks == 0) {
        atomic_store_explicit(&t->is_over, true, memory_order_release);
    } else {
        atomic_store_explicit(&t->n_left, n_tasks, memory_order_relaxed);
        task_hands_deal(t->hands, t->n_threads, n_tasks);
    }
    if (t->n_threads > 1) advance(t);
}

/* Takes tasks until none is left. Those done count together, once: until then the phase of the
 * first of them is open, so they are all of one phase. */
static void take_tasks(threads *t, uint32_t thread) {
    uint32_t task, n_done = 0;
    while (task_hands_take(t->hands, t->n_threads, thread, &task)) {
        t->task(t->arg, task, thread);
        n_done++;
    }
    if (n_done == 0) return;
    if (atomic_fetch_sub_explicit(&t->n_left, n_done, memory_order_acq_rel) == n_done)
        open_phase(t);
}

static void *worker_main(void *p) {
    seat *s = p;
    threads *t = s->pool;
    (void)isa_enter_exact();
    for (;;) {
        uint32_t known = atomic_load_explicit(&t->generation, memory_order_acquire);
        if (atomic_load_explicit(&t->stop, memory_order_acquire)) return NULL;
        take_tasks(t, s->index);
        wait_for_more(t, s, known);
    }
}

void threads_run_phases(threads *t, threads_next *next, threads_task *task, void *arg) {
    t->next = next;
    t->task = task;
    t->arg = arg;
    atomic_store_explicit(&t->is_over, false, memory_order_relaxed);
    open_phase(t);
    for (;;) {
        uint32_t known = atomic_load_explicit(&t->generation, memory_order_acquire);
        if (atomic_load_explicit(&t->is_over, memory_order_acquire)) return;
        take_tasks(t, 0);
        if (t->n_threads > 1) wait_for_more(t, &t->seats[0], known);
    }
}

/* ---- a single phase ------------------------------------------------------------------------ */

typedef struct single_phase {
    threads_task *task;
    void *arg;
    uint32_t n_left;
} single_phase;

static uint32_t open_single(void *arg) {
    single_phase *p = arg;
    uint32_t n_tasks = p->n_left;
    p->n_left = 0;
    return n_tasks;
}

static void run_single(void *arg, uint32_t task, uint32_t thread) {
    const single_phase *p = arg;
    p->task(p->arg, task, thread);
}

void threads_run_tasks(threads *t, uint32_t n_tasks, threads_task *task, void *arg) {
    if (n_tasks == 1) {
        task(arg, 0, 0);
        return;
    }
    single_phase p = {.task = task, .arg = arg, .n_left = n_tasks};
    threads_run_phases(t, open_single, run_single, &p);
}

/* One task for each thread. */
typedef struct share_of_work {
    threads_work *work;
    void *arg;
} share_of_work;

static void run_share(void *arg, uint32_t task, uint32_t thread) {
    const share_of_work *s = arg;
    (void)thread;
    s->work(s->arg, task);
}

void threads_run(threads *t, threads_work *work, void *arg) {
    share_of_work s = {.work = work, .arg = arg};
    threads_run_tasks(t, t->n_threads, run_share, &s);
}

/* ---- the pool ------------------------------------------------------------------------------ */

static void release(threads *t) {
    free(t->hands);
    free(t->seats);
    free(t);
}

threads *threads_open(uint32_t n_threads, ll_error *err) {
    threads *t = aligned_alloc(64, sizeof *t);
    if (t != NULL) {
        *t = (threads){.n_threads = n_threads};
        t->hands = aligned_alloc(64, n_threads * sizeof(task_hand));
        t->seats = calloc(n_threads, sizeof(seat));
    }
    if (t == NULL || t->hands == NULL || t->seats == NULL) {
        if (t != NULL) release(t);
        ll_fail(err, LL_ERR_MEMORY, "no memory for %u threads", n_threads);
        return NULL;
    }
    for (uint32_t i = 0; i < n_threads; i++) {
        atomic_init(&t->hands[i].left, 0);
        t->seats[i] = (seat){.pool = t, .index = i, .spin = spin_most};
    }
    /* Signals belong to the caller's threads: a worker that took one would leave them unwoken. */
    sigset_t all, before;
    pthread_attr_t attributes;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    (void)pthread_attr_init(&attributes);
    (void)pthread_attr_setstacksize(&attributes, STACK_BYTES);
    for (; t->n_started + 1 < n_threads; t->n_started++) {
        seat *s = &t->seats[t->n_started + 1];
        if (pthread_create(&s->handle, &attributes, worker_main, s) != 0) break;
    }
    (void)pthread_attr_destroy(&attributes);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (t->n_started + 1 == n_threads) return t;
    ll_fail(err, LL_ERR_MEMORY, "the system refused thread %u of %u", t->n_started + 2, n_threads);
    threads_close(t);
    return NULL;
}

void threads_close(threads *t) {
    if (t == NULL) return;
    atomic_store_explicit(&t->stop, true, memory_order_release);
    advance(t);
    for (uint32_t i = 1; i <= t->n_started; i++) (void)pthread_join(t->seats[i].handle, NULL);
    release(t);
}

uint32_t threads_count(const threads *t) { return t->n_threads; }
