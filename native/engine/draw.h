/* draw: the memory that ll_engine_sample works in. */
#ifndef LL_ENGINE_DRAW_H
#define LL_ENGINE_DRAW_H

#include "engine/engine.h"

/* The scratch of as many draws as an engine of these options makes at once. */
size_t draw_scratch_bytes(const model *m, const device_options *o);
bool draw_open(ll_engine *e, ll_error *err);
void draw_close(ll_engine *e);

#endif
