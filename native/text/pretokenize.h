/* pretokenize: where byte-level BPE cuts text before it merges, one row a `tokenizer.ggml.pre`.
 *
 * A family is at most four stages, each the hand-written form of one regular expression. A stage
 * cuts its input into matches and the gaps between them; the next stage cuts each of those pieces
 * again. Every stage looks forward only and by a bounded number of passes over what it returns, so
 * splitting is linear whatever the text.
 */
#ifndef LL_TEXT_PRETOKENIZE_H
#define LL_TEXT_PRETOKENIZE_H

#include "localllm_measure.h"

enum { PRETOKENIZE_STAGES = 4 };

/* The end of the piece that starts at `at`; text is valid UTF-8 and at < end. */
typedef size_t pretokenize_stage(const char *text, size_t at, size_t end);

typedef struct pretokenizer {
    const char *name;                 /* value of tokenizer.ggml.pre */
    pretokenize_stage *const *stages; /* [PRETOKENIZE_STAGES], NULL after the last */
    bool ignore_merges;               /* a piece that is a token as it stands is not merged */
    bool add_bos;                     /* where the file does not say */
    bool no_bos;                      /* the family has none, whatever the file's id */
} pretokenizer;

/* The row of that name, or NULL. */
const pretokenizer *pretokenizer_find(ll_string name);

/* Writes the known names, as many as fit, separated by ", ", and a NUL; capacity is over 64. */
void pretokenizer_names(char *out, size_t capacity);

/* A walk over the pieces of text [n_bytes], which is valid UTF-8. */
typedef struct pretokenize_walk {
    const pretokenizer *pre;
    const char *text;
    size_t n_bytes;
    size_t at;                       /* where the next piece starts */
    size_t ends[PRETOKENIZE_STAGES]; /* of the piece that each stage is in */
} pretokenize_walk;

void pretokenize_start(pretokenize_walk *w, const pretokenizer *pre, const char *text,
                       size_t n_bytes);
/* False after the last piece. */
bool pretokenize_next(pretokenize_walk *w, ll_string *piece);

#endif
