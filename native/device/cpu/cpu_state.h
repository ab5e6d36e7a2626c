/* cpu_state: the processor as a device: its phases, and what a running phase sees.
 *
 * A step of the plan becomes one to three phases. A phase is a number of independent tasks, dealt
 * to the threads; the next one opens when all are done. A phase of a single task is run by
 * whichever thread ends the phase before it, so it costs no meeting of its own: at one row a layer
 * has five.
 *
 * What phases there are is one table, in cpu.c: it alone knows the files that run them, they know
 * where memory lies (cpu_memory.h), and that file knows none of them.
 */
#ifndef LL_DEVICE_CPU_CPU_STATE_H
#define LL_DEVICE_CPU_CPU_STATE_H

#include "base/threads.h"
#include "device/device.h"
#include "kernels/kernels.h"

typedef struct cpu cpu;
typedef struct phase phase;

/* How a phase is cut into tasks for the batch being run. */
typedef struct task_cut {
    uint32_t n_tasks; /* 0 skips the phase */
    uint32_t n_rows;  /* where tasks are rows of weights: of each but the last */
    uint32_t n_spans; /* where they attend: tasks that share the chunks of one run of queries */
} task_cut;

/* What a task touches at most of its thread's memory, whatever batch of up to n_batch rows it
 * belongs to, and how many floats are set aside for it. */
typedef struct scratch_need {
    size_t panel_bytes, n_floats;
    size_t n_floats_reserved; /* n_floats or more */
} scratch_need;

typedef task_cut phase_cut(const cpu *d, const phase *p);
typedef void phase_run(cpu *d, const phase *p, uint32_t task, uint32_t thread);
typedef scratch_need phase_need(const cpu *d, const step *s);

/* What of its step a phase does. */
typedef enum phase_part {
    PREPARES, /* rounds the input of the step's matrices */
    WORKS,    /* reads and multiplies what the step is counted for as work */
    FINISHES, /* puts together what the tasks before it left */
} phase_part;

typedef struct phase_kind {
    const char *name; /* as the profile shows it */
    phase_part part;
    phase_cut *cut;
    phase_run *run;
    phase_need *need;                 /* NULL: no more than the thread's row */
    bool (*is_wanted)(const step *s); /* NULL: by every step that has it */
} phase_kind;

struct phase {
    const step *step;
    const phase_kind *kind;
    task_cut cut; /* of the batch being run, once the phase is open */
};

/* Query rows of one attention task: consecutive positions of a segment. */
typedef struct query_run {
    const segment *segment;
    uint32_t first_row, n_rows, first_position; /* the row is one of the buffers */
} query_run;

/* The rows of the running batch that a row_choice stands for, and the runs they attend in. */
typedef struct row_set {
    uint32_t n;
    const uint32_t *rows;  /* [n] of the batch, ascending */
    query_run *query_runs; /* [n_query_runs] */
    uint32_t n_query_runs;
    uint32_t n_positions; /* the last of any row, plus 1 */
} row_set;

struct cpu {
    const plan *plan;
    const model *model;
    const kernels *kernels;
    device_options options;
    threads *pool;

    char *scratch; /* one reservation, laid out by cpu_memory.c */
    size_t scratch_bytes;
    float *buffers[N_BUFFERS];          /* [n_batch, buffer_dim] */
    void *acts_memory[ACTS_KIND_COUNT]; /* the inputs of the running matmuls */
    float *rope[N_ROPES];               /* [n_batch, n_rot]: cosine and sine of each pair */
    float *states;                      /* split attention: [rows, heads, chunks, v_dim + 2] */
    uint32_t n_split_rows;              /* rows `states` has room for */
    uint32_t *every_row;                /* [n_batch] 0, 1, 2 ... */
    char *thread_memory;                /* [n_threads] of thread_bytes */
    size_t thread_bytes, thread_floats;

    float *logits; /* [n_logits, n_vocab] */
    float *peaks;  /* [n_logits, n_peaks] of each strip of logits, see sample/strips.h */
    uint32_t n_peaks;
    size_t logits_bytes;
    char *kv[MAX_GROUPS]; /* [n_blocks of the group] of block_bytes */
    size_t block_bytes[MAX_GROUPS];

    phase *phases;
    uint32_t n_phases;

    const batch *batch; /* of the running call */
    row_set sets[N_ROW_CHOICES];
    const phase *running;
    uint32_t next_phase;
    double next_poll;       /* seconds */
    ll_phase_time *profile; /* [n_phases] sums of the runs since it was asked for; NULL: never */
    bool profiles;
    double profile_mark;       /* seconds: when the last phase ended */
    ll_importance *importance; /* [n_importance] of the runs since asked for; NULL: never */
    size_t n_importance;
    double *importance_sums; /* of all inputs, one after the other */
    bool collects;
    _Atomic uint32_t
        bad_layer; /* lowest layer that met a value that is not finite; n_layers + 1: none */
};

static inline const row_set *cpu_rows_of(const cpu *d, const step *s) { return &d->sets[s->rows]; }

/* The layers whose KV a step appends to or reads. */
static inline const layer_group *cpu_group_of(const cpu *d, const step *s) {
    return &d->plan->groups[s->group];
}

static inline const row_set *cpu_input_rows_of(const cpu *d, const step *s) {
    return &d->sets[step_input_rows(s)];
}

/* Notes that `layer` met a value that is not finite; the run ends with NUMERIC. */
static inline void cpu_note_bad(cpu *d, uint32_t layer) {
    uint32_t known = atomic_load(&d->bad_layer);
    while (layer < known && !atomic_compare_exchange_weak(&d->bad_layer, &known, layer)) {
    }
}

#endif
