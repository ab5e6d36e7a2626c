/* plan: emits the forward pass. Read `emit_layer` as the model's block, top to bottom. */
#include "model/plan.h"

#include <assert.h>
#include <stdlib.h>

uint32_t group_first_seen(const layer_group *g, uint32_t position) {
    bool is_cut = g->kind == GROUP_WINDOWED && position >= g->window;
    return is_cut ? position - g->window + 1 : 0;
}

uint32_t group_most_seen(const layer_group *g, uint32_t n_tokens, uint32_t n_ctx) {
    if (g->kind == GROUP_FULL) return n_ctx;
    uint64_t seen = (uint64_t)g->window - 1 + n_tokens;
    return seen < n_ctx ? (uint32_t)seen : n_ctx;
}

static uint32_t find_weight(const plan *p, weight_role role, uint32_t layer) {
    uint32_t id = model_weight_id(role, layer);
    return p->model->weights[id].data != NULL ? id : NO_WEIGHT;
}

enum { STEPS_PER_LAYER = 5, OTHER_STEPS = 2 };

static size_t most_steps(const model *m) {
    return (size_t)m->n_layers * STEPS_PER_LAYER + OTHER_STEPS;
}

static step *emit(plan *p, step_kind kind, const char *name, uint32_t layer, row_choice rows,
                  buffer_id in, buffer_id out) {
    assert(p->n_steps < most_steps(p->model));
    step *s = &p->steps[p->n_steps++];
    *s = (step){.kind = kind, .name = name, .layer = layer, .rows = rows, .in = in, .out = out};
    s->table = s->norm = s->post_norm = NO_WEIGHT;
    for (int i = 0; i < 3; i++) {
        s->w[i] = s->bias[i] = NO_WEIGHT;
        s->w_rows[i] = rows;
    }
    s->head_norm[0] = s->head_norm[1] = NO_WEIGHT;
    return s;
}

static void widen(plan *p, buffer_id buffer, uint32_t dim) {
    if (p->buffer_dim[buffer] < dim) p->buffer_dim[buffer] = dim;
}

static void emit_project(plan *p, const char *name, uint32_t layer, row_choice rows, buffer_id in,
                         weight_role w, weight_role norm) {
    step *s = emit(p, STEP_PROJECT, name, layer, rows, in, X_RESIDUAL);
    s->w[0] = find_weight(p, w, layer);
    s->post_norm = find_weight(p, norm, layer);
    if (s->post_norm != NO_WEIGHT) widen(p, X_OUTPUT, p->model->dim);
}

static void emit_layer(plan *p, uint32_t layer, uint32_t group) {
    const model *m = p->model;
    const layer_group *of = &p->groups[group];
    widen(p, X_QUERY, m->n_heads * of->k_dim);
    widen(p, X_HEADS, m->n_heads * of->v_dim);
    widen(p, X_HIDDEN, m->ffn_dim);
    /* Of the last layer, later rows see keys and values alone; the rest only feeds the logits. */
    row_choice rows = layer + 1 == m->n_layers ? ROWS_KEPT : ROWS_ALL;

    step *s = emit(p, STEP_QKV, "qkv", layer, rows, X_RESIDUAL, X_QUERY);
    s->norm = find_weight(p, WEIGHT_ATTN_NORM, layer);
    for (uint32_t i = 0; i < 3; i++) {
        s->w[i] = find_weight(p, (weight_role)(WEIGHT_ATTN_Q + i), layer);
        s->bias[i] = find_weight(p, (weight_role)(WEIGHT_ATTN_Q_BIAS + i), layer);
    }
    s->w_rows[1] = s->w_rows[2] = ROWS_ALL;
    s->head_norm[0] = find_weight(p, WEIGHT_ATTN_Q_NORM, layer);
    s->head_norm[1] = find_weight(p, WEIGHT_ATTN_K_NORM, layer);
    s->rope = of->kind == GROUP_WINDOWED ? ROPE_WINDOWED : ROPE_FULL;
    s->group = group;
    s->group_layer = of->n_layers - 1;

    s = emit(p, STEP_ATTEND, "attend", layer, rows, X_QUERY, X_HEADS);
    s->attends = true;
    s->group = group;
    s->group_layer = of->n_layers - 1;

    emit_project(p, "attn_out", layer, rows, X_HEADS, WEIGHT_ATTN_OUT, WEIGHT_POST_ATTN_NORM);

    s = emit(p, STEP_GATE_UP, "gate_up", layer, rows, X_RESIDUAL, X_HIDDEN);
    s->norm = find_weight(p, WEIGHT_FFN_NORM, layer);
    s->w[0] = find_weight(p, WEIGHT_FFN_GATE, layer);
    s->w[1] = find_weight(p, WEIGHT_FFN_UP, layer);

    emit_project(p, "down", layer, rows, X_HIDDEN, WEIGHT_FFN_DOWN, WEIGHT_POST_FFN_NORM);
}

static layer_group group_of(const model *m, uint32_t layer) {
    bool is_windowed = m->is_windowed[layer];
    return (layer_group){.kind = is_windowed ? GROUP_WINDOWED : GROUP_FULL,
                         .window = is_windowed ? m->window : 0,
                         .n_kv_heads = m->n_kv_heads,
                         .k_dim = m->k_dim,
                         .v_dim = m->v_dim};
}

static bool is_same_group(const layer_group *a, const layer_group *b) {
    return a->kind == b->kind && a->window == b->window && a->n_kv_heads == b->n_kv_heads &&
           a->k_dim == b->k_dim && a->v_dim == b->v_dim;
}

bool plan_take_group(plan *p, const layer_group *of, uint32_t *group, ll_error *err) {
    uint32_t g = 0;
    while (g < p->n_groups && !is_same_group(&p->groups[g], of)) g++;
    if (g == MAX_GROUPS)
        return ll_fail(err, LL_ERR_UNSUPPORTED,
                       "keys and values of more than %d shapes and windows", MAX_GROUPS);
    if (g == p->n_groups) {
        p->groups[p->n_groups++] = *of;
        p->groups[g].n_layers = 0;
    }
    p->groups[g].n_layers++;
    *group = g;
    return true;
}

bool plan_open(plan *p, const model *m, ll_error *err) {
    *p = (plan){.model = m};
    p->steps = malloc(most_steps(m) * sizeof(step));
    if (p->steps == NULL) return ll_fail(err, LL_ERR_MEMORY, "no memory for the plan");
    p->buffer_dim[X_RESIDUAL] = m->dim;

    step *s = emit(p, STEP_EMBED, "embed", m->n_layers, ROWS_ALL, X_RESIDUAL, X_RESIDUAL);
    s->table = find_weight(p, WEIGHT_TOKEN_EMBD, 0);
    for (uint32_t layer = 0; layer < m->n_layers; layer++) {
        layer_group of = group_of(m, layer);
        uint32_t group;
        if (!plan_take_group(p, &of, &group, err)) {
            plan_close(p);
            return false;
        }
        emit_layer(p, layer, group);
    }
    s = emit(p, STEP_LOGITS, "logits", m->n_layers, ROWS_KEPT, X_RESIDUAL, X_RESIDUAL);
    s->norm = find_weight(p, WEIGHT_OUTPUT_NORM, 0);
    s->w[0] = find_weight(p, WEIGHT_OUTPUT, 0);
    if (s->w[0] == NO_WEIGHT) s->w[0] = find_weight(p, WEIGHT_TOKEN_EMBD, 0); /* tied */
    return true;
}

void plan_close(plan *p) {
    free(p->steps);
    *p = (plan){0};
}
