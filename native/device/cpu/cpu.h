/* cpu: the processor as a device: its memory, its phases, and what a running phase sees.
 *
 * A step of the plan becomes one to three phases. A phase is a number of independent tasks, dealt
 * to the threads; the next one opens when all are done. A phase of a single task is run by
 * whichever thread ends the phase before it, so it costs no meeting of its own: at one row a layer
 * has five.
 */
#ifndef LL_DEVICE_CPU_CPU_H
#define LL_DEVICE_CPU_CPU_H

#include "base/threads.h"
#include "device/device.h"
#include "kernels/kernels.h"

extern const device_kind device_cpu;

enum {
    ROWS_PER_TASK = 8, /* of the phases that go row by row */
    MATMUL_ROWS = 128, /* most weight rows of one matmul task of many columns */
    TILE_TOKENS = 16,  /* rows of one attention task */
};

typedef struct cpu cpu;
typedef struct phase phase;

/* Tasks of this phase for the batch being run; 0 skips the phase. */
typedef uint32_t phase_count(cpu *d, const phase *p);
typedef void phase_run(cpu *d, const phase *p, uint32_t task, uint32_t thread);

struct phase {
    const step *step;
    phase_count *count;
    phase_run *run;
};

/* Query rows of one attention task: consecutive positions of a segment. */
typedef struct tile {
    const segment *segment;
    uint32_t first_row, n_rows, first_position; /* the row is one of the buffers */
} tile;

/* The rows of the running batch that a row_choice stands for, and how their attention is cut. With
 * few rows and a long context each task takes some chunks of a tile and leaves one state a chunk,
 * merged in ascending order afterwards. */
typedef struct row_set {
    uint32_t n;
    const uint32_t *rows; /* [n] of the batch, ascending */
    tile *tiles;          /* [n_tiles] */
    uint32_t n_tiles;
    uint32_t n_spans; /* 1: a task sees all chunks of its tile */
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
    float *states;                      /* split attention: [rows, heads, chunks, head_dim + 2] */
    uint32_t n_split_rows;              /* rows `states` has room for */
    uint32_t *every_row;                /* [n_batch] 0, 1, 2 ... */
    char *thread_memory;                /* [n_threads] of thread_bytes */
    size_t thread_bytes, tile_floats;

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
    uint32_t tile_rows; /* weight rows of a matmul task of the running phase */
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

/* ---- cpu_memory.c ---- */

/* Byte counts of scratch, logits and KV; the allocator and the memory plan both come from here. */
bool cpu_plan_memory(const plan *p, const device_options *options, ll_memory *out, ll_error *err);
void cpu_measure_memory(const device *d, ll_memory *out);
bool cpu_place(cpu *d, ll_error *err);
void cpu_release(cpu *d);

/* See device_kind. */
size_t cpu_block_bytes(const device *d, uint32_t group);
bool cpu_get_block(const device *d, uint32_t group, uint32_t block, void *out, ll_error *err);
bool cpu_put_block(device *d, uint32_t group, uint32_t block, const void *kv, ll_error *err);
bool cpu_copy_block(device *d, uint32_t group, uint32_t from, uint32_t to, ll_error *err);

/* Scratch of one thread: the kernels' panel, a tile of outputs, and one row of floats. */
void *cpu_thread_panel(const cpu *d, uint32_t thread);
float *cpu_thread_tile(const cpu *d, uint32_t thread); /* [tile_floats] */
float *cpu_thread_row(const cpu *d, uint32_t thread);  /* [widest row] */

/* Keys and values of one block, layer and head: chunks as format/kv.h lays their types out. */
void *cpu_keys(const cpu *d, const step *s, uint32_t block, uint32_t kv_head);
void *cpu_values(const cpu *d, const step *s, uint32_t block, uint32_t kv_head);

/* ---- cpu_rows.c: phases that go row by row ---- */

uint32_t cpu_count_batch(cpu *d, const phase *p);
uint32_t cpu_count_rows(cpu *d, const phase *p);
void cpu_run_embed(cpu *d, const phase *p, uint32_t task, uint32_t thread);
void cpu_run_prepare_batch(cpu *d, const phase *p, uint32_t task, uint32_t thread);
void cpu_run_prepare(cpu *d, const phase *p, uint32_t task, uint32_t thread);
void cpu_run_join(cpu *d, const phase *p, uint32_t task, uint32_t thread);

/* ---- cpu_matmul.c: phases that multiply by weights ---- */

uint32_t cpu_count_heads(cpu *d, const phase *p);
uint32_t cpu_count_tiles(cpu *d, const phase *p);
void cpu_run_heads(cpu *d, const phase *p, uint32_t task, uint32_t thread);
void cpu_run_project(cpu *d, const phase *p, uint32_t task, uint32_t thread);
void cpu_run_gate_up(cpu *d, const phase *p, uint32_t task, uint32_t thread);
void cpu_run_logits(cpu *d, const phase *p, uint32_t task, uint32_t thread);

/* What a task of a step's products touches at most of its thread's memory: floats of the tile, and
 * bytes of the panel. It holds for every batch of up to n_batch rows. */
typedef struct extent {
    size_t tile_floats, panel_bytes;
} extent;

extent cpu_matmul_extent(const cpu *d, const step *s);

/* ---- cpu_append.c ---- */

/* Rounds one KV head of every row of the batch, y [n_rows, head_dim], to the type of keys or values
 * and appends it to its session's blocks. */
void cpu_append_keys(cpu *d, const step *s, uint32_t kv_head, const float *y, uint32_t thread);
void cpu_append_values(cpu *d, const step *s, uint32_t kv_head, const float *y, uint32_t thread);
/* Bytes of a thread's panel that they touch at most. */
size_t cpu_append_scratch(const cpu *d);

/* ---- cpu_attend.c ---- */

void cpu_cut_attention(const cpu *d, row_set *set); /* before a run */
uint32_t cpu_count_attend(cpu *d, const phase *p);
uint32_t cpu_count_merge(cpu *d, const phase *p);
extent cpu_attend_extent(const cpu *d);
void cpu_run_attend(cpu *d, const phase *p, uint32_t task, uint32_t thread);
void cpu_run_merge(cpu *d, const phase *p, uint32_t task, uint32_t thread);

/* ---- cpu_profile.c ---- */

bool cpu_set_profile(device *opaque, bool on, ll_error *err);
const ll_phase_time *cpu_get_profile(const device *opaque, size_t *n_phases);
/* Around a run, and, while all threads meet, at the end of each phase. */
void cpu_profile_begin(cpu *d);
void cpu_profile_phase(cpu *d, const phase *ended);
void cpu_profile_end(cpu *d);

/* ---- cpu_importance.c ---- */

/* What set_importance allocates. */
size_t cpu_importance_bytes(const plan *p);
bool cpu_set_importance(device *opaque, bool on, ll_error *err);
const ll_importance *cpu_get_importance(const device *opaque, size_t *n);
/* While all threads meet, at the end of each phase. */
void cpu_collect_importance(cpu *d, const phase *ended);

/* ---- cpu.c ---- */

static inline const row_set *cpu_rows_of(const cpu *d, const step *s) { return &d->sets[s->rows]; }

/* The kernels of that name, for NULL those of $LOCALLLM_KERNELS or else the best; NULL and
 * ARGUMENT, naming those there are, where this processor has none of that name. */
const kernels *cpu_find_kernels(const char *name, ll_error *err);

/* Row i of a step's buffer; the residual alone is indexed by the row of the batch. */
float *cpu_buffer_row(const cpu *d, buffer_id buffer, const row_set *set, uint32_t i);

/* Notes that `layer` met a value that is not finite; the run ends with NUMERIC. */
void cpu_note_bad(cpu *d, uint32_t layer);

#endif
