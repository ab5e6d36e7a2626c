/* device: what executes a plan, and the list of what there is.
 *
 * A device is handed the plan once: it places the buffers and owns the memory of the KV blocks.
 * All that varies from run to run comes in one small `batch`, so a device may record its work once.
 */
#ifndef LL_DEVICE_DEVICE_H
#define LL_DEVICE_DEVICE_H

#include <stdatomic.h>

#include "base/threads.h"
#include "kernels/kernels.h"
#include "model/plan.h"

enum { BLOCK_POSITIONS = KERNELS_CHUNK }; /* positions of one KV block */

typedef struct device_options {
    uint32_t n_batch;  /* rows per run */
    uint32_t n_logits; /* rows per run whose logits are kept */
    uint32_t n_threads;
    uint32_t n_ctx;                /* positions of the longest session */
    uint32_t n_blocks[MAX_GROUPS]; /* KV blocks of each layer group */
    kv_type kv_k, kv_v;
    const kernels *kernels;
} device_options;

/* Consecutive rows of one session at consecutive positions. */
typedef struct segment {
    uint32_t first_row, n_rows;
    uint32_t first_position;
    const uint32_t
        *tables[MAX_GROUPS]; /* block of position p: tables[group][p / BLOCK_POSITIONS] */
} segment;

typedef struct batch {
    const int32_t *ids;        /* [n_rows] */
    const uint32_t *positions; /* [n_rows] */
    uint32_t n_rows;
    const segment *segments; /* [n_segments], covering all rows in order */
    uint32_t n_segments;
    const uint32_t *kept; /* [n_kept] rows whose logits are wanted, ascending */
    uint32_t n_kept;
    atomic_bool *cancel; /* read between tasks */
    ll_poll *poll;       /* called by the caller's thread now and then; true sets cancel */
    void *poll_arg;
} batch;

typedef struct device device;

typedef struct device_kind {
    const char *name;
    /* Fills the byte counts of `out` that are the device's: KV, scratch, logits, importance. */
    void (*plan_memory)(const plan *p, const device_options *options, ll_memory *out);
    /* The same of an open device, but what has been touched so far. */
    void (*measure_memory)(const device *d, ll_memory *out);
    device *(*open)(const plan *p, const device_options *options, ll_error *err);
    void (*close)(device *d);
    /* Runs all steps; errors: CANCELLED, NUMERIC (names the layer). */
    bool (*run)(device *d, const batch *b, ll_error *err);
    /* The KV of one block of a layer group, as bytes that mean the same to every device of a kind.
     */
    size_t (*block_bytes)(const device *d, uint32_t group);
    void (*get_block)(const device *d, uint32_t group, uint32_t block, void *out);
    void (*put_block)(device *d, uint32_t group, uint32_t block, const void *kv);
    void (*copy_block)(device *d, uint32_t group, uint32_t from, uint32_t to);
    /* The kept rows of the last run, [n_kept, n_vocab]. */
    const float *(*logits)(const device *d);
    /* See ll_engine_set_profile and ll_engine_get_profile. */
    bool (*set_profile)(device *d, bool on, ll_error *err);
    const ll_phase_time *(*get_profile)(const device *d, size_t *n_phases);
    /* See ll_engine_set_importance and ll_engine_get_importance. */
    bool (*set_importance)(device *d, bool on, ll_error *err);
    const ll_importance *(*get_importance)(const device *d, size_t *n);
    /* Their peaks, [n_kept, strips_count(n_vocab)]; see sample/strips.h. */
    const float *(*peaks)(const device *d);
    /* Runs task(arg, i, thread) for i in [0, n_tasks) on the threads of the host that the device
     * computes with; a single task on the calling thread, waking nobody. */
    void (*run_tasks)(device *d, uint32_t n_tasks, threads_task *task, void *arg);
} device_kind;

extern const device_kind *const device_list[]; /* NULL-terminated; the first is the default */

#endif
