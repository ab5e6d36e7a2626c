/* cpu: turning a plan into phases, and running them on all threads. */
#include "device/cpu/cpu.h"

#include <stdlib.h>

#include "base/isa.h"
#include "base/system.h"

enum { MAX_PHASES_PER_STEP = 3 };

/* What each kind of step is made of, in order. */
static const struct {
    phase_count *count;
    phase_run *run;
} phases_of[][MAX_PHASES_PER_STEP] = {
    [STEP_EMBED] = {{cpu_count_batch, cpu_run_embed}},
    [STEP_QKV] = {{cpu_count_batch, cpu_run_prepare_batch}, {cpu_count_heads, cpu_run_heads}},
    [STEP_ATTEND] = {{cpu_count_attend, cpu_run_attend}, {cpu_count_merge, cpu_run_merge}},
    [STEP_PROJECT] = {{cpu_count_rows, cpu_run_prepare},
                    {cpu_count_tiles, cpu_run_project},
                    {cpu_count_rows, cpu_run_join}},
    [STEP_GATE_UP] = {{cpu_count_rows, cpu_run_prepare}, {cpu_count_tiles, cpu_run_gate_up}},
    [STEP_LOGITS] = {{cpu_count_rows, cpu_run_prepare}, {cpu_count_tiles, cpu_run_logits}},
};

static bool build_phases(cpu *d, ll_error *err) {
    size_t most = d->plan->n_steps * MAX_PHASES_PER_STEP;
    d->phases = malloc(most * sizeof(phase));
    if (d->phases == NULL) return ll_fail(err, LL_ERR_MEMORY, "no memory for %zu phases", most);
    for (size_t i = 0; i < d->plan->n_steps; i++) {
        const step *s = &d->plan->steps[i];
        for (int j = 0; j < MAX_PHASES_PER_STEP && phases_of[s->kind][j].run != NULL; j++) {
            phase_run *run = phases_of[s->kind][j].run;
            if (run == cpu_run_join && s->post_norm == NO_WEIGHT)
                continue; /* joined by its tasks */
            d->phases[d->n_phases++] = (phase){s, phases_of[s->kind][j].count, run};
        }
    }
    return true;
}

float *cpu_buffer_row(const cpu *d, buffer_id buffer, const row_set *set, uint32_t i) {
    size_t row = buffer == X_RESIDUAL ? set->rows[i] : i;
    return d->buffers[buffer] + row * d->plan->buffer_dim[buffer];
}

void cpu_note_bad(cpu *d, uint32_t layer) {
    uint32_t known = atomic_load(&d->bad_layer);
    while (layer < known && !atomic_compare_exchange_weak(&d->bad_layer, &known, layer)) {
    }
}

static bool is_over(const cpu *d) {
    return atomic_load_explicit(d->batch->cancel, memory_order_relaxed) ||
           atomic_load_explicit(&d->bad_layer, memory_order_relaxed) <= d->model->n_layers;
}

static void end_phase(cpu *d) {
    if (!is_over(d)) cpu_collect_importance(d, d->running);
    cpu_profile_phase(d, d->running);
}

/* Opens the next phase of several tasks; those of a single one are run on the way. */
static uint32_t open_phase(void *arg) {
    cpu *d = arg;
    if (d->next_phase > 0) end_phase(d);
    while (d->next_phase < d->n_phases && !is_over(d)) {
        d->running = &d->phases[d->next_phase++];
        uint32_t n_tasks = d->running->count(d, d->running);
        if (n_tasks > 1) return n_tasks;
        if (n_tasks == 1) d->running->run(d, d->running, 0, 0);
        end_phase(d);
    }
    return 0;
}

/* Lets the caller look around, at most once in POLL_SECONDS. */
static void poll_caller(cpu *d) {
    const double POLL_SECONDS = 0.03;
    double now = system_seconds();
    if (now < d->next_poll) return;
    d->next_poll = now + POLL_SECONDS;
    if (d->batch->poll(d->batch->poll_arg)) atomic_store(d->batch->cancel, true);
}

static void run_task(void *arg, uint32_t task, uint32_t thread) {
    cpu *d = arg;
    if (is_over(d)) return;
    d->running->run(d, d->running, task, thread);
    if (thread == 0 && d->batch->poll != NULL) poll_caller(d);
}

static bool cpu_run(device *opaque, const batch *b, ll_error *err) {
    cpu *d = (cpu *)(void *)opaque;
    d->batch = b;
    d->next_phase = 0;
    atomic_store(&d->bad_layer, d->model->n_layers + 1);
    d->sets[ROWS_ALL].n = b->n_rows;
    d->sets[ROWS_ALL].rows = d->every_row;
    d->sets[ROWS_KEPT].n = b->n_kept;
    d->sets[ROWS_KEPT].rows = b->kept;
    for (int i = 0; i < N_ROW_CHOICES; i++) cpu_cut_attention(d, &d->sets[i]);
    uint64_t state = isa_enter_exact();
    cpu_profile_begin(d);
    threads_run_phases(d->pool, open_phase, run_task, d);
    cpu_profile_end(d);
    isa_restore(state);
    d->batch = NULL;
    if (atomic_load(b->cancel)) return ll_fail(err, LL_ERR_CANCELLED, "the step was cancelled");
    uint32_t bad = atomic_load(&d->bad_layer);
    if (bad < d->model->n_layers)
        return ll_fail(err, LL_ERR_NUMERIC, "a value that is not finite appeared in layer %u", bad);
    if (bad == d->model->n_layers)
        return ll_fail(err, LL_ERR_NUMERIC, "a value that is not finite appeared in the logits");
    return true;
}

static void cpu_close(device *opaque) {
    cpu *d = (cpu *)(void *)opaque;
    if (d == NULL) return;
    threads_close(d->pool);
    cpu_release(d);
    free(d->phases);
    free(d->profile);
    free(d->importance);
    free(d->importance_sums);
    free(d);
}

const kernels *cpu_find_kernels(const char *name, ll_error *err) {
    if (name == NULL) name = getenv("LOCALLLM_KERNELS");
    if (name != NULL && name[0] == '\0') name = NULL;
    const kernels *found = kernels_find(name);
    if (found != NULL) return found;
    char known[128] = "";
    for (const kernels *const *k = kernels_list; *k != NULL; k++)
        if ((*k)->is_available()) ll_list_name(known, sizeof known, (*k)->name);
    ll_fail(err, LL_ERR_ARGUMENT, "no kernels \"%.32s\" on this processor; it has %s", name, known);
    return NULL;
}

static device *cpu_open(const plan *p, const device_options *options, ll_error *err) {
    cpu *d = calloc(1, sizeof *d);
    if (d == NULL) {
        ll_fail(err, LL_ERR_MEMORY, "no memory for the device");
        return NULL;
    }
    d->plan = p;
    d->model = p->model;
    d->kernels = cpu_find_kernels(options->kernels, err);
    d->options = *options;
    d->options.kernels = NULL; /* the caller's string */
    if (d->kernels != NULL && build_phases(d, err) && cpu_place(d, err))
        d->pool = threads_open(options->n_threads, err);
    if (d->pool == NULL) {
        cpu_close((device *)(void *)d);
        return NULL;
    }
    return (device *)(void *)d;
}

static const char *cpu_kernels(const device *opaque) {
    return ((const cpu *)(const void *)opaque)->kernels->name;
}

static const char *cpu_arithmetic(const device *opaque) {
    (void)opaque;
    return "canonical";
}

static const float *cpu_logits(const device *opaque) {
    return ((const cpu *)(const void *)opaque)->logits;
}

static const float *cpu_peaks(const device *opaque) {
    return ((const cpu *)(const void *)opaque)->peaks;
}

static void cpu_run_tasks(device *opaque, uint32_t n_tasks, threads_task *task, void *arg) {
    threads_run_tasks(((cpu *)(void *)opaque)->pool, n_tasks, task, arg);
}

const device_kind device_cpu = {
    .name = "cpu",
    .plan_memory = cpu_plan_memory,
    .measure_memory = cpu_measure_memory,
    .open = cpu_open,
    .close = cpu_close,
    .kernels = cpu_kernels,
    .arithmetic = cpu_arithmetic,
    .run = cpu_run,
    .logits = cpu_logits,
    .peaks = cpu_peaks,
    .block_bytes = cpu_block_bytes,
    .get_block = cpu_get_block,
    .put_block = cpu_put_block,
    .copy_block = cpu_copy_block,
    .set_profile = cpu_set_profile,
    .get_profile = cpu_get_profile,
    .set_importance = cpu_set_importance,
    .get_importance = cpu_get_importance,
    .run_tasks = cpu_run_tasks,
};
