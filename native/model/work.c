/* work: counted from shapes alone. Norms, rotations and activations are left out of the operations:
 * they are some thousandth of the multiply-adds.
 */
#include "model/work.h"

#include "localllm_measure.h"

static void add_bytes(const plan *p, uint32_t id, ll_work *w) {
    if (id == NO_WEIGHT) return;
    const weight *of = &p->model->weights[id];
    w->weight_bytes += of->row_bytes * of->n_rows;
}

static uint32_t count_rows(row_choice rows, uint32_t n_rows, uint32_t n_kept) {
    return rows == ROWS_ALL ? n_rows : n_kept;
}

void work_add_weights(const plan *p, const step *s, uint32_t n_rows, uint32_t n_kept, ll_work *w) {
    if (s->table != NO_WEIGHT)
        w->weight_bytes +=
            count_rows(s->rows, n_rows, n_kept) * p->model->weights[s->table].row_bytes;
    bool runs = false;
    for (int i = 0; i < 3; i++) {
        uint32_t n_columns = count_rows(s->w_rows[i], n_rows, n_kept);
        if (s->w[i] == NO_WEIGHT || n_columns == 0) continue;
        runs = true;
        const weight *of = &p->model->weights[s->w[i]];
        acts_kind acts = quant_table[of->type].acts;
        bool is_float = acts == ACTS_F32 || acts == ACTS_BF16;
        *(is_float ? &w->float_macs : &w->int8_macs) += (uint64_t)of->n * of->n_rows * n_columns;
        add_bytes(p, s->w[i], w);
        add_bytes(p, s->bias[i], w);
        if (i < 2) add_bytes(p, s->head_norm[i], w);
    }
    if (runs) add_bytes(p, s->norm, w);
    if (runs) add_bytes(p, s->post_norm, w);
}

void work_add_attention(const plan *p, const step *s, const ll_span *rows, kv_type kv_k,
                        kv_type kv_v, ll_work *w) {
    uint32_t n_rows = count_rows(s->rows, rows->n_rows, rows->n_logits);
    if (!s->attends || n_rows == 0) return;
    const layer_group *g = &p->groups[s->group];
    uint32_t end = rows->first_position + rows->n_rows, first = end - n_rows;
    uint64_t n_pairs = 0;
    for (uint32_t position = first; position < end; position++)
        n_pairs += position + 1 - group_first_seen(g, position);
    /* Together they see from what the first of them sees to their own last. */
    uint64_t n_seen = end - group_first_seen(g, first);
    w->kv_bytes += n_seen * g->n_kv_heads *
                   (kv_position_bytes(kv_k, g->k_dim) + kv_position_bytes(kv_v, g->v_dim));
    w->float_macs += n_pairs * p->model->n_heads * (g->k_dim + g->v_dim);
}
