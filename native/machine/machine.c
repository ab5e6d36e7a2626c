/* machine: the interface's questions about this machine: what it has, and its measured limits. A
 * limit is measured by all threads at once, as a model uses them.
 */
#include <stdatomic.h>

#include "base/isa.h"
#include "base/system.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "localllm_measure.h"

void ll_machine_get(ll_machine *out) {
    *out = (ll_machine){.n_cores = system_usable_cores()};
    size_t n = 0, most = sizeof out->kernels / sizeof out->kernels[0] - 1;
    for (size_t i = 0; kernels_list[i] != NULL && n < most; i++)
        if (kernels_list[i]->is_available()) out->kernels[n++] = kernels_list[i]->name;
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Memory is read fastest as several runs side by side, each prefetched: a single one is held back
 * by what the processor's own prefetcher keeps in flight (measured: 10 against 12.5 GB/s). */
enum { RUNS = 4, LINE = 8, AHEAD = 256 /* words: 64 and 2048 bytes */ };

typedef struct reading {
    uint64_t *memory;
    size_t words_per_run; /* a multiple of LINE */
    double until;
    _Atomic uint64_t n_bytes, sink;
} reading;

static uint64_t *share_of(const reading *r, uint32_t thread) {
    return r->memory + thread * RUNS * r->words_per_run;
}

/* By the thread that will read them, so that they lie near it. */
static void touch_memory(void *arg, uint32_t thread) {
    enum { WORDS_PER_PAGE = 512 };
    reading *r = arg;
    uint64_t *words = share_of(r, thread);
    for (size_t i = 0; i < RUNS * r->words_per_run; i += WORDS_PER_PAGE) words[i] = i;
}

static void read_memory(void *arg, uint32_t thread) {
    reading *r = arg;
    const uint64_t *words = share_of(r, thread);
    size_t n = r->words_per_run;
    uint64_t sums[LINE] = {0}, n_bytes = 0;
    do {
        for (size_t at = 0; at < n; at += LINE)
            for (size_t run = 0; run < RUNS; run++) {
                const uint64_t *line = words + run * n + at;
                __builtin_prefetch(line + AHEAD);
                for (int i = 0; i < LINE; i++) sums[i] += line[i];
            }
        n_bytes += RUNS * n * sizeof *words;
    } while (system_seconds() < r->until);
    for (int i = 0; i < LINE; i++) r->sink += sums[i];
    r->n_bytes += n_bytes;
}

double ll_machine_read_rate(size_t n_bytes, uint32_t n_threads, double seconds) {
    if (n_threads == 0) return 0;
    size_t words_per_run = n_bytes / sizeof(uint64_t) / n_threads / RUNS / LINE * LINE;
    threads *pool = threads_open(n_threads, NULL);
    uint64_t *memory = system_reserve_huge(n_bytes);
    double rate = 0;
    if (pool != NULL && memory != NULL && words_per_run > 0) {
        reading r = {.memory = memory, .words_per_run = words_per_run};
        threads_run(pool, touch_memory, &r);
        double start = system_seconds();
        r.until = start + seconds;
        threads_run(pool, read_memory, &r);
        rate = (double)r.n_bytes / (system_seconds() - start);
    }
    system_release(memory, n_bytes);
    threads_close(pool);
    return rate;
}

/* ---- arithmetic ------------------------------------------------------------------------------ */

typedef struct counting {
    peak_loop loop;
    double until;
    _Atomic uint64_t n_macs;
} counting;

static void count_macs(void *arg, uint32_t thread) {
    enum { TURNS = 20000 }; /* some tens to hundreds of microseconds between looks at the clock */
    (void)thread;
    counting *c = arg;
    uint64_t state = isa_enter_exact(), n_macs = 0;
    do {
        c->loop.run(TURNS);
        n_macs += TURNS * c->loop.macs;
    } while (system_seconds() < c->until);
    isa_restore(state);
    c->n_macs += n_macs;
}

double ll_machine_peak(const char *name, bool is_float, uint32_t n_threads, double seconds) {
    const kernels *k = name == NULL ? NULL : kernels_find(name);
    if (k == NULL || n_threads == 0) return 0;
    threads *pool = threads_open(n_threads, NULL);
    if (pool == NULL) return 0;
    counting c = {.loop = k->peaks[is_float ? PEAK_FLOAT : PEAK_INT8]};
    double start = system_seconds();
    c.until = start + seconds;
    threads_run(pool, count_macs, &c);
    double rate = (double)c.n_macs / (system_seconds() - start);
    threads_close(pool);
    return rate;
}
