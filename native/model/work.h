/* work: what a step must read and compute, whatever device does it: the bytes and the multiply-adds
 * that no schedule can avoid. Held against a machine's rates they give the least time a step takes.
 */
#ifndef LL_MODEL_WORK_H
#define LL_MODEL_WORK_H

#include "format/kv.h"
#include "localllm_measure.h"
#include "model/plan.h"

/* Adds what a step reads and multiplies by weights. A weight is read once, however many rows there
 * are; a table only the rows of the tokens. */
void work_add_weights(const plan *p, const step *s, uint32_t n_rows, uint32_t n_kept, ll_work *w);

/* Adds what a step that attends reads and multiplies for one session; others add nothing. */
void work_add_attention(const plan *p, const step *s, const ll_span *rows, kv_type kv_k,
                        kv_type kv_v, ll_work *w);

#endif
