/* cpu_attend: attention over the blocks of a session's table.
 *
 * A task is a run of consecutive query rows of one session and one KV head, with all query heads
 * that share it, so keys and values are read once for them. It takes the chunks (blocks) its rows
 * see in ascending order and merges each into the running state. Where there are fewer tasks than
 * threads, a run's chunks are dealt to several tasks instead; each chunk leaves its state, and the
 * merge takes them in the same ascending order: the same bits either way.
 */
#include <string.h>

#include "device/cpu/cpu_memory.h"
#include "device/cpu/cpu_phases.h"

enum { QUERY_RUN_ROWS = 16 }; /* at most */

typedef struct queries {
    uint32_t n_rows;                     /* tokens of the run times heads sharing the KV head */
    uint32_t n_shared;                   /* heads sharing it */
    float *q;                            /* [n_rows][k_dim], row = token * n_shared + head */
    float *running;                      /* [n_rows][v_dim] */
    float *chunk;                        /* [n_rows][v_dim] */
    attend_state *states, *chunk_states; /* [n_rows] */
} queries;

void cpu_cut_queries(const cpu *d, row_set *set) {
    const segment *g = d->batch->segments;
    query_run *last = NULL;
    set->n_query_runs = set->n_positions = 0;
    for (uint32_t i = 0; i < set->n; i++) {
        uint32_t row = set->rows[i], position = d->batch->positions[row];
        while (row >= g->first_row + g->n_rows) g++;
        if (position >= set->n_positions) set->n_positions = position + 1;
        if (last != NULL && last->segment == g && last->n_rows < QUERY_RUN_ROWS &&
            position == last->first_position + last->n_rows) {
            last->n_rows++;
            continue;
        }
        last = &set->query_runs[set->n_query_runs++];
        *last = (query_run){.segment = g, .first_row = i, .n_rows = 1, .first_position = position};
    }
}

/* With few rows and a long context each task takes some chunks of a run and leaves one state a
 * chunk. */
static uint32_t count_spans(const cpu *d, const row_set *set, uint32_t n_kv_heads) {
    enum { WORTH_SPLITTING = 4 }; /* chunks */
    uint32_t n_chunks = (set->n_positions + BLOCK_POSITIONS - 1) / BLOCK_POSITIONS;
    uint32_t most = 2 * d->options.n_threads;
    bool idle = set->n_query_runs * n_kv_heads < d->options.n_threads;
    bool split = idle && n_chunks >= WORTH_SPLITTING && set->n <= d->n_split_rows;
    return !split ? 1 : n_chunks < most ? n_chunks : most;
}

task_cut cpu_cut_attend(const cpu *d, const phase *p) {
    const row_set *set = cpu_rows_of(d, p->step);
    uint32_t n_kv_heads = cpu_group_of(d, p->step)->n_kv_heads;
    uint32_t n_spans = count_spans(d, set, n_kv_heads);
    return (task_cut){.n_tasks = set->n_query_runs * n_kv_heads * n_spans, .n_spans = n_spans};
}

task_cut cpu_cut_merge(const cpu *d, const phase *p) {
    uint32_t n_kv_heads = cpu_group_of(d, p->step)->n_kv_heads;
    return (task_cut){.n_tasks = count_spans(d, cpu_rows_of(d, p->step), n_kv_heads) > 1 ? 1 : 0};
}

/* Floats for each row of queries: see gather_queries. */
static size_t query_floats(const layer_group *g) {
    return g->k_dim + 2 * (size_t)g->v_dim + 2 * sizeof(attend_state) / sizeof(float);
}

scratch_need cpu_need_attend(const cpu *d, const step *s) {
    const layer_group *g = cpu_group_of(d, s);
    uint32_t n_batch = d->options.n_batch;
    size_t n_rows = n_batch < QUERY_RUN_ROWS ? n_batch : QUERY_RUN_ROWS;
    n_rows *= d->model->n_heads / g->n_kv_heads;
    size_t n_floats = n_rows * query_floats(g);
    return (scratch_need){.panel_bytes = d->kernels->attend_scratch(g->k_dim, g->v_dim, n_rows),
                          .n_floats = n_floats,
                          .n_floats_reserved = n_floats};
}

static void gather_queries(const cpu *d, const step *s, const query_run *run, uint32_t kv_head,
                           uint32_t thread, queries *out) {
    const layer_group *g = cpu_group_of(d, s);
    size_t n = g->k_dim, width = d->plan->buffer_dim[s->in];
    out->n_shared = d->model->n_heads / g->n_kv_heads;
    out->n_rows = run->n_rows * out->n_shared;
    float *memory = cpu_thread_floats(d, thread);
    out->states = (attend_state *)(void *)memory;
    out->chunk_states = out->states + out->n_rows;
    out->q = (float *)(void *)(out->chunk_states + out->n_rows);
    out->running = out->q + out->n_rows * n;
    out->chunk = out->running + (size_t)out->n_rows * g->v_dim;
    for (uint32_t i = 0; i < run->n_rows; i++) {
        const float *q = d->buffers[s->in] + (run->first_row + i) * width;
        memcpy(out->q + i * out->n_shared * n, q + kv_head * out->n_shared * n,
               out->n_shared * n * sizeof(float));
    }
    for (uint32_t r = 0; r < out->n_rows && kv_rotates(d->options.kv_k); r++)
        kv_rotate(out->q + r * n, n);
    for (uint32_t r = 0; r < out->n_rows; r++) {
        out->states[r].o = out->running + (size_t)r * g->v_dim;
        out->chunk_states[r].o = out->chunk + (size_t)r * g->v_dim;
    }
}

/* Chunk c of the run's session, and behind it chunk `next`, where that comes before `end`. */
static attend_chunk chunk_at(const cpu *d, const step *s, const query_run *run, uint32_t kv_head,
                             uint32_t c, uint32_t next, uint32_t end) {
    const uint32_t *table = run->segment->tables[s->group];
    bool is_last = next >= end;
    return (attend_chunk){.k = cpu_keys(d, s, table[c], kv_head),
                          .v = cpu_values(d, s, table[c], kv_head),
                          .k_dim = cpu_group_of(d, s)->k_dim,
                          .v_dim = cpu_group_of(d, s)->v_dim,
                          .k_type = d->options.kv_k,
                          .v_type = d->options.kv_v,
                          .next_k = is_last ? NULL : cpu_keys(d, s, table[next], kv_head),
                          .next_v = is_last ? NULL : cpu_values(d, s, table[next], kv_head)};
}

/* Computes chunk `c` for the rows that see any of it: rows [*first_row, *end_row) of q. */
static void attend_one(const cpu *d, const step *s, const query_run *run, const attend_chunk *chunk,
                       uint32_t c, const queries *q, uint32_t *first_row, uint32_t *end_row,
                       uint32_t thread) {
    uint8_t first[QUERY_RUN_ROWS * MAX_SHARED_HEADS], last[QUERY_RUN_ROWS * MAX_SHARED_HEADS];
    const layer_group *g = cpu_group_of(d, s);
    uint32_t start = c * BLOCK_POSITIONS, begin = 0, end = 0;
    for (uint32_t i = 0; i < run->n_rows; i++) {
        uint32_t position = run->first_position + i, seen = group_first_seen(g, position);
        bool sees = position >= start && seen < start + BLOCK_POSITIONS;
        if (!sees && end == 0) begin = i + 1; /* rows before the chunk */
        if (!sees) continue;                  /* or whose window has left it */
        end = i + 1;
        uint32_t from = seen > start ? seen - start : 0;
        uint32_t to = position - start < BLOCK_POSITIONS ? position - start + 1 : BLOCK_POSITIONS;
        memset(first + i * q->n_shared, (int)from, q->n_shared);
        memset(last + i * q->n_shared, (int)to, q->n_shared);
    }
    *first_row = begin * q->n_shared;
    *end_row = end * q->n_shared;
    if (end <= begin) return;
    d->kernels->attend(chunk, q->q + *first_row * chunk->k_dim, chunk->k_dim, *end_row - *first_row,
                       d->model->attention_scale, first + *first_row, last + *first_row,
                       q->chunk_states + *first_row, cpu_thread_panel(d, thread));
}

static void write_head(const cpu *d, const step *s, uint32_t row, uint32_t head,
                       const attend_state *state) {
    size_t n = cpu_group_of(d, s)->v_dim;
    float *out = d->buffers[s->out] + row * (size_t)d->plan->buffer_dim[s->out] + head * n;
    float scale = 1.0f / state->l;
    for (size_t i = 0; i < n; i++) out[i] = state->o[i] * scale;
    if (kv_rotates(d->options.kv_v)) kv_rotate(out, n);
}

/* State of one chunk of one row and head: [v_dim] values, m, l. */
static float *state_slot(const cpu *d, const step *s, uint32_t row, uint32_t head, uint32_t c) {
    size_t floats = (size_t)cpu_group_of(d, s)->v_dim + 2;
    uint32_t n_chunks = (d->options.n_ctx + BLOCK_POSITIONS - 1) / BLOCK_POSITIONS;
    return d->states + (((size_t)row * d->model->n_heads + head) * n_chunks + c) * floats;
}

static void keep_states(const cpu *d, const step *s, const query_run *run, uint32_t kv_head,
                        uint32_t c, const queries *q, uint32_t first_row, uint32_t end_row) {
    size_t n = cpu_group_of(d, s)->v_dim;
    for (uint32_t r = first_row; r < end_row; r++) {
        uint32_t head = kv_head * q->n_shared + r % q->n_shared;
        float *slot = state_slot(d, s, run->first_row + r / q->n_shared, head, c);
        memcpy(slot, q->chunk_states[r].o, n * sizeof(float));
        slot[n] = q->chunk_states[r].m;
        slot[n + 1] = q->chunk_states[r].l;
    }
}

static void merge_states(const cpu *d, const step *s, const queries *q, uint32_t first_row,
                         uint32_t end_row, bool *is_begun) {
    size_t n = cpu_group_of(d, s)->v_dim;
    for (uint32_t r = first_row; r < end_row; r++) {
        if (is_begun[r]) {
            d->kernels->attend_merge(&q->states[r], &q->chunk_states[r], n);
            continue;
        }
        q->states[r].m = q->chunk_states[r].m;
        q->states[r].l = q->chunk_states[r].l;
        memcpy(q->states[r].o, q->chunk_states[r].o, n * sizeof(float));
        is_begun[r] = true;
    }
}

void cpu_run_attend(cpu *d, const phase *p, uint32_t task, uint32_t thread) {
    const step *s = p->step;
    const row_set *set = cpu_rows_of(d, s);
    const layer_group *g = cpu_group_of(d, s);
    uint32_t n_spans = p->cut.n_spans, n_kv_heads = g->n_kv_heads;
    uint32_t span = task % n_spans, kv_head = task / n_spans % n_kv_heads;
    /* The last runs see the most chunks, so they go first. */
    const query_run *run = &set->query_runs[set->n_query_runs - 1 - task / n_spans / n_kv_heads];
    queries q;
    gather_queries(d, s, run, kv_head, thread, &q);
    bool is_begun[QUERY_RUN_ROWS * MAX_SHARED_HEADS] = {false};
    uint32_t c = group_first_seen(g, run->first_position) / BLOCK_POSITIONS;
    uint32_t end = (run->first_position + run->n_rows - 1) / BLOCK_POSITIONS + 1;
    uint32_t first_row, end_row;
    for (c += span; c < end; c += n_spans) {
        attend_chunk chunk = chunk_at(d, s, run, kv_head, c, c + n_spans, end);
        attend_one(d, s, run, &chunk, c, &q, &first_row, &end_row, thread);
        if (n_spans > 1)
            keep_states(d, s, run, kv_head, c, &q, first_row, end_row);
        else
            merge_states(d, s, &q, first_row, end_row, is_begun);
    }
    if (n_spans > 1) return;
    for (uint32_t r = 0; r < q.n_rows; r++)
        write_head(d, s, run->first_row + r / q.n_shared, kv_head * q.n_shared + r % q.n_shared,
                   &q.states[r]);
}

/* Merges the states that split tasks left, each row's in ascending order of chunks. */
void cpu_run_merge(cpu *d, const phase *p, uint32_t task, uint32_t thread) {
    (void)task, (void)thread;
    const step *s = p->step;
    const layer_group *g = cpu_group_of(d, s);
    size_t n = g->v_dim;
    const row_set *set = cpu_rows_of(d, s);
    for (uint32_t row = 0; row < set->n; row++) {
        uint32_t position = d->batch->positions[set->rows[row]];
        uint32_t begin = group_first_seen(g, position) / BLOCK_POSITIONS;
        for (uint32_t head = 0; head < d->model->n_heads; head++) {
            float *slot = state_slot(d, s, row, head, begin);
            attend_state into = {.m = slot[n], .l = slot[n + 1], .o = slot};
            for (uint32_t c = begin + 1; c <= position / BLOCK_POSITIONS; c++) {
                float *next = state_slot(d, s, row, head, c);
                attend_state from = {.m = next[n], .l = next[n + 1], .o = next};
                d->kernels->attend_merge(&into, &from, n);
            }
            write_head(d, s, row, head, &into);
        }
    }
}
