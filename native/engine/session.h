/* session: what the engine asks of a session. */
#ifndef LL_ENGINE_SESSION_H
#define LL_ENGINE_SESSION_H

#include "engine/engine.h"

uint32_t session_blocks_for(uint32_t n_tokens);
size_t session_bytes(const plan *p, uint32_t n_ctx);

/* Whether the session could take n_pending tokens more; CONTEXT where that is more than the
 * context, ARGUMENT where layers with a window lack what the next token sees. */
bool session_check(const ll_session *s, ll_error *err);
/* Makes room for the pending tokens of a list of sessions (next_pending), in blocks that nobody
 * else writes. Takes all of the blocks, which ll_session_truncate undoes, or none: CONTEXT, or the
 * device's error where it cannot copy. */
bool session_reserve(ll_session *first, ll_error *err);
/* The pending rows are computed. */
void session_commit(ll_session *s);

#endif
