/* device: what executes a plan.
 *
 * A device is handed the plan once: it places the buffers and owns the memory of the KV blocks.
 * All that varies from run to run comes in one small `batch`, so a device may record its work once.
 * Whoever writes one needs this header, model/plan.h (what the steps compute) and model/model.h
 * (the weights); the CPU's, in device/cpu/, is the example; a line in device_list.c makes it known.
 */
#ifndef LL_DEVICE_DEVICE_H
#define LL_DEVICE_DEVICE_H

#include <stdatomic.h>

#include "base/threads.h"
#include "format/kv.h"
#include "localllm_measure.h"
#include "model/plan.h"

typedef struct device_options {
    uint32_t n_batch;              /* most rows of a run */
    uint32_t n_logits;             /* most rows of a run whose logits are kept */
    uint32_t n_threads;            /* of the host */
    uint32_t n_ctx;                /* positions of the longest session */
    uint32_t n_blocks[MAX_GROUPS]; /* KV blocks of each layer group */
    kv_type kv_k, kv_v;
    const char *kernels; /* of the device's own, by name; NULL: it chooses */
} device_options;

/* Consecutive rows of one session at consecutive positions. */
typedef struct segment {
    uint32_t first_row, n_rows;
    uint32_t first_position;
    /* Block of position p: tables[group][p / BLOCK_POSITIONS], below n_blocks of the group. They
     * say where the rows' own KV goes and where to find that of all earlier positions which a layer
     * of the group sees; what stands before those is to be ignored. */
    const uint32_t *tables[MAX_GROUPS];
} segment;

/* One run. Everything here is the caller's, host memory of its type's alignment that stays as it is
 * until the run returns, except `cancel`, which any thread may set.
 *
 * A session's rows may be in several segments, and a later row sees the KV of all its earlier ones:
 * a layer appends the KV of all rows before any of them attends. Sessions may have blocks in
 * common; no row writes to those. */
typedef struct batch {
    const int32_t *ids;        /* [n_rows], each of the vocabulary */
    const uint32_t *positions; /* [n_rows], each below n_ctx */
    uint32_t n_rows;           /* 1 to n_batch */
    const segment *segments;   /* [n_segments], covering all rows in order */
    uint32_t n_segments;
    const uint32_t *kept; /* [n_kept] rows whose logits are wanted, ascending */
    uint32_t n_kept;      /* 0 to n_logits */
    atomic_bool *cancel;  /* to be read now and then; once true, run returns within 200 ms */
    ll_poll *poll;        /* to be called by the thread that called run, some tens of milliseconds
                           * apart; where it returns true, set cancel. NULL: none */
    void *poll_arg;
} batch;

typedef struct device device;

/* A kind of device. One thread at a time calls the functions of an open device, not always the same
 * one; several may be open at once, in several threads. Those that fill `err` return false, or
 * NULL, where they fail. */
typedef struct device_kind {
    const char *name; /* what ll_engine_options.device says */

    /* Fills the byte counts of `out` that are the device's, which has none of them yet: kv, block,
     * scratch, logits, importance, and device_bytes, in which the others, host memory, are not
     * contained. open() then takes no more. Errors: those of open, but for MEMORY. */
    bool (*plan_memory)(const plan *p, const device_options *options, ll_memory *out,
                        ll_error *err);
    /* The same of an open device, but what has been touched so far. */
    void (*measure_memory)(const device *d, ll_memory *out);
    /* What memory of its own the device has and what of it is free, in bytes. NULL where it
     * computes in the host's. */
    bool (*own_memory)(uint64_t *free_bytes, uint64_t *total_bytes, ll_error *err);

    /* The plan, its model and the weights' mapped bytes stay where they are until close; the
     * options need not, nor their string. Weights lie at multiples of 4 bytes. Errors: MEMORY;
     * ARGUMENT for kernels that it does not have, naming those it has; UNSUPPORTED for a plan it
     * cannot run. */
    device *(*open)(const plan *p, const device_options *options, ll_error *err);
    void (*close)(device *d); /* NULL is none */
    /* The kernels it chose; this string and the next are valid until close. */
    const char *(*kernels)(const device *d);
    /* Which bits it computes. KV goes from one device to another, through the disk too, where this
     * and LL_ARITHMETIC are equal: "canonical" is the arithmetic of base/exact.h and
     * kernels/kernels.h, bit for bit; a device of other bits has another name for them, of letters,
     * digits and dots, at most 31, and changes it whenever it changes them. */
    const char *(*arithmetic)(const device *d);

    /* Runs all steps, each for the rows that it is wanted for. A run that fails leaves the KV of
     * its own positions undefined and all other KV as it was. Errors: CANCELLED, NUMERIC (names the
     * layer), IO where the device does not answer. */
    bool (*run)(device *d, const batch *b, ll_error *err);
    /* The logits of the last run's kept rows, [n_kept, n_vocab], and the largest of every
     * STRIP_LOGITS of them, [n_kept, strips_count(n_vocab)], see sample/strips.h: host memory,
     * valid until the next run. */
    const float *(*logits)(const device *d);
    const float *(*peaks)(const device *d);

    /* KV blocks, by layer group and number. Their bytes mean the same to every device of equal
     * arithmetic; of the canonical one they are [layers of the group][keys, then values][KV heads],
     * each a chunk of format/kv.h. `out` and `kv` are block_bytes of host memory, of any alignment.
     * A copy that fails leaves its target undefined and every other block as it was. Errors: IO,
     * MEMORY. */
    size_t (*block_bytes)(const device *d, uint32_t group);
    bool (*get_block)(const device *d, uint32_t group, uint32_t block, void *out, ll_error *err);
    bool (*put_block)(device *d, uint32_t group, uint32_t block, const void *kv, ll_error *err);
    bool (*copy_block)(device *d, uint32_t group, uint32_t from, uint32_t to, ll_error *err);

    /* What ll_engine_set_profile and ll_engine_get_profile promise. Both NULL where the device
     * cannot tell: the engine says so. */
    bool (*set_profile)(device *d, bool on, ll_error *err);
    const ll_phase_time *(*get_profile)(const device *d, size_t *n_phases);
    /* Likewise ll_engine_set_importance and ll_engine_get_importance. */
    bool (*set_importance)(device *d, bool on, ll_error *err);
    const ll_importance *(*get_importance)(const device *d, size_t *n);

    /* Runs task(arg, i, thread) for i in [0, n_tasks) on host threads, `thread` being below
     * n_threads; a single task on the calling thread, waking nobody. NULL where the device has no
     * such threads: the engine then draws one token after the other. */
    void (*run_tasks)(device *d, uint32_t n_tasks, threads_task *task, void *arg);
} device_kind;

#endif
