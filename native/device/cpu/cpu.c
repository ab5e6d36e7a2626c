/* cpu: turning a plan into phases, and running them on all threads. */
#include "device/cpu/cpu.h"

#include <stdlib.h>

#include "base/isa.h"
#include "base/system.h"
#include "device/cpu/cpu_measure.h"
#include "device/cpu/cpu_memory.h"
#include "device/cpu/cpu_phases.h"
#include "device/cpu/cpu_state.h"

/* ---- the phases there are -------------------------------------------------------------------- */

static bool has_post_norm(const step *s) { return s->post_norm != NO_WEIGHT; }

/* name, part, cut, run, need, is_wanted */
static const phase_kind
    embed = {"embed", WORKS, cpu_cut_rows, cpu_run_embed, NULL, NULL},
    prepare = {"prepare", PREPARES, cpu_cut_input_rows, cpu_run_prepare, NULL, NULL},
    heads = {"multiply", WORKS, cpu_cut_heads, cpu_run_heads, cpu_need_heads, NULL},
    attend = {"attend", WORKS, cpu_cut_attend, cpu_run_attend, cpu_need_attend, NULL},
    merge = {"merge", FINISHES, cpu_cut_merge, cpu_run_merge, NULL, NULL},
    project = {"multiply", WORKS, cpu_cut_weights, cpu_run_project, cpu_need_project, NULL},
    join = {"join", FINISHES, cpu_cut_rows, cpu_run_join, NULL, has_post_norm},
    gate_up = {"multiply", WORKS, cpu_cut_weights, cpu_run_gate_up, cpu_need_gate_up, NULL},
    logits = {"multiply", WORKS, cpu_cut_weights, cpu_run_logits, cpu_need_logits, NULL};

enum { MAX_PHASES_PER_STEP = 3 };

/* What each kind of step is made of, in order. */
static const phase_kind *const phases_of[][MAX_PHASES_PER_STEP] = {
    [STEP_EMBED] = {&embed},
    [STEP_QKV] = {&prepare, &heads},
    [STEP_ATTEND] = {&attend, &merge},
    [STEP_PROJECT] = {&prepare, &project, &join},
    [STEP_GATE_UP] = {&prepare, &gate_up},
    [STEP_LOGITS] = {&prepare, &logits},
};

/* Writes the kinds of a step's phases; returns how many. */
static int list_phases(const step *s, const phase_kind *out[MAX_PHASES_PER_STEP]) {
    int n = 0;
    for (int i = 0; i < MAX_PHASES_PER_STEP && phases_of[s->kind][i] != NULL; i++) {
        const phase_kind *kind = phases_of[s->kind][i];
        if (kind->is_wanted == NULL || kind->is_wanted(s)) out[n++] = kind;
    }
    return n;
}

static bool build_phases(cpu *d, ll_error *err) {
    size_t most = d->plan->n_steps * MAX_PHASES_PER_STEP;
    d->phases = malloc(most * sizeof(phase));
    if (d->phases == NULL) return ll_fail(err, LL_ERR_MEMORY, "no memory for %zu phases", most);
    for (size_t i = 0; i < d->plan->n_steps; i++) {
        const step *s = &d->plan->steps[i];
        const phase_kind *kinds[MAX_PHASES_PER_STEP];
        int n = list_phases(s, kinds);
        for (int j = 0; j < n; j++) d->phases[d->n_phases++] = (phase){.step = s, .kind = kinds[j]};
    }
    return true;
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* The most that a task of any phase needs; the device need not be open. */
static scratch_need find_most_needed(const cpu *d) {
    scratch_need most = {0};
    for (size_t i = 0; i < d->plan->n_steps; i++) {
        const step *s = &d->plan->steps[i];
        const phase_kind *kinds[MAX_PHASES_PER_STEP];
        int n = list_phases(s, kinds);
        for (int j = 0; j < n; j++) {
            if (kinds[j]->need == NULL) continue;
            scratch_need need = kinds[j]->need(d, s);
            most.panel_bytes = larger(most.panel_bytes, need.panel_bytes);
            most.n_floats = larger(most.n_floats, need.n_floats);
            most.n_floats_reserved = larger(most.n_floats_reserved, need.n_floats_reserved);
        }
    }
    return most;
}

/* ---- a run ----------------------------------------------------------------------------------- */

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
        phase *p = &d->phases[d->next_phase++];
        p->cut = p->kind->cut(d, p);
        d->running = p;
        if (p->cut.n_tasks > 1) return p->cut.n_tasks;
        if (p->cut.n_tasks == 1) p->kind->run(d, p, 0, 0);
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
    d->running->kind->run(d, d->running, task, thread);
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
    for (int i = 0; i < N_ROW_CHOICES; i++) cpu_cut_queries(d, &d->sets[i]);
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

/* ---- the device ------------------------------------------------------------------------------ */

/* The kernels of that name, for NULL those of $LOCALLLM_KERNELS or else the best; NULL and
 * ARGUMENT, naming those there are, where this processor has none of that name. */
static const kernels *find_kernels(const char *name, ll_error *err) {
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

static bool cpu_plan_memory(const plan *p, const device_options *options, ll_memory *out,
                            ll_error *err) {
    cpu d = {.plan = p,
             .model = p->model,
             .kernels = find_kernels(options->kernels, err),
             .options = *options};
    if (d.kernels == NULL) return false;
    scratch_need need = find_most_needed(&d);
    cpu_plan_bytes(&d, &need, out);
    out->importance_bytes = cpu_importance_bytes(p);
    return true;
}

static bool place(cpu *d, ll_error *err) {
    scratch_need need = find_most_needed(d);
    return cpu_place(d, &need, err);
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

static device *cpu_open(const plan *p, const device_options *options, ll_error *err) {
    cpu *d = calloc(1, sizeof *d);
    if (d == NULL) {
        ll_fail(err, LL_ERR_MEMORY, "no memory for the device");
        return NULL;
    }
    d->plan = p;
    d->model = p->model;
    d->kernels = find_kernels(options->kernels, err);
    d->options = *options;
    d->options.kernels = NULL; /* the caller's string */
    if (d->kernels != NULL && build_phases(d, err) && place(d, err))
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
