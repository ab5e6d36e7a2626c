/* rope: the frequency table and magnitude of a model's rotary embedding, for every scaling kind. */
#ifndef LL_MODEL_ROPE_H
#define LL_MODEL_ROPE_H

#include "model/model.h"

/* Fills m->ropes from the rope.* keys and rope_freqs.weight. Errors: FORMAT, UNSUPPORTED, MEMORY.
 */
bool rope_open(model *m, ll_error *err);
void rope_close(model *m);

#endif
