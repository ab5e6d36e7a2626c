/* session: what the engine asks of a session. */
#ifndef LL_ENGINE_SESSION_H
#define LL_ENGINE_SESSION_H

#include "engine/engine.h"

/* Makes room for n_tokens in all, in blocks that nobody else writes; CONTEXT where there is none.
 * Undone by ll_session_truncate. */
bool session_reserve(ll_session *s, uint32_t n_tokens, ll_error *err);

#endif
