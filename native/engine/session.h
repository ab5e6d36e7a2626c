/* session: what the engine asks of a session. */
#ifndef LL_ENGINE_SESSION_H
#define LL_ENGINE_SESSION_H

#include "engine/engine.h"

uint32_t session_blocks_for(uint32_t n_tokens);
size_t session_bytes(const plan *p, uint32_t n_ctx);

/* Makes room for n_tokens in all, in blocks that nobody else writes; CONTEXT where they are more
 * than the context, ARGUMENT where layers with a window lack what the next token sees, and the
 * device's error where it cannot copy; nothing is reserved then. Undone by ll_session_truncate. */
bool session_reserve(ll_session *s, uint32_t n_tokens, ll_error *err);
/* The pending rows are computed. */
void session_commit(ll_session *s);

#endif
