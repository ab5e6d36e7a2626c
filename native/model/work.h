/* work: what a step must read and compute, whatever device does it: the bytes and the multiply-adds
 * that no schedule can avoid. Held against a machine's rates they give the least time a step takes.
 */
#ifndef LL_MODEL_WORK_H
#define LL_MODEL_WORK_H

#include "format/kv.h"
#include "model/plan.h"

/* A step's name as the profile shows it: "qkv", "attn_out", "down" … */
const char *work_step_name(const step *s);

/* Adds what a step reads and multiplies by weights. A weight is read once, however many rows there
 * are; an embedding only its rows. */
void work_add_weights(const plan *p, const step *s, uint32_t n_rows, uint32_t n_kept, ll_work *w);

/* Adds what an ATTEND step reads and multiplies for one session; other steps add nothing. */
void work_add_attention(const plan *p, const step *s, const ll_span *rows, kv_type kv_k,
                        kv_type kv_v, ll_work *w);

#endif
