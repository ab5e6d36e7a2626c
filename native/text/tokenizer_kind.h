/* tokenizer_kind: what a tokenizer is made of, and what one algorithm adds.
 *
 * The parts that every algorithm shares sit in `tokenizer`; a tokenizer_kind is the row of one
 * value of tokenizer.ggml.model. A tokenizer never changes after it was opened, so any number of
 * threads may encode with it: whatever an encode needs to write is in its own encode_work.
 */
#ifndef LL_TEXT_TOKENIZER_KIND_H
#define LL_TEXT_TOKENIZER_KIND_H

#include "text/merge_rules.h"
#include "text/merger.h"
#include "text/pretokenize.h"
#include "text/special.h"
#include "text/text_buffer.h"
#include "text/tokenizer.h"

/* One encode call's memory and output; starts as all zeros but for ids and capacity. */
typedef struct encode_work {
    int32_t *ids; /* [capacity] */
    size_t capacity;
    size_t n_ids; /* may exceed capacity; what does not fit is only counted */
    merger merger;
    text_buffer text; /* the fragment as the algorithm wants it */
    text_buffer word;
} encode_work;

static inline void encode_emit(encode_work *w, int32_t id) {
    if (w->n_ids < w->capacity) w->ids[w->n_ids] = id;
    w->n_ids++;
}

typedef struct tokenizer_kind {
    const char *model; /* value of tokenizer.ggml.model */
    int32_t bos, eos;  /* where the file does not say; -1: none */
    bool add_bos;      /* likewise */
    bool add_space_prefix;
    bool (*open)(tokenizer *t, const gguf *g, ll_error *err);
    /* Appends the ids of a fragment without special tokens, n_bytes > 0. */
    bool (*encode)(const tokenizer *t, const char *text, size_t n_bytes, encode_work *w,
                   ll_error *err);
    /* The bytes that a normal token's text stands for: writes those that fit, returns how many
     * there are. */
    size_t (*decode)(ll_string text, char *out, size_t capacity);
} tokenizer_kind;

extern const tokenizer_kind tokenizer_bpe, tokenizer_spm;

struct tokenizer {
    const tokenizer_kind *kind;
    vocabulary vocab;
    special special;
    int32_t byte_ids[256]; /* the token of one byte, -1: none */
    int32_t bos, eos;      /* -1: none */
    bool add_bos, add_eos;
    bool add_space_prefix;
    uint8_t *ends; /* [(n_tokens + 7) / 8] bit set: ends the answer */

    const pretokenizer *pre; /* byte-level BPE */
    merge_rules rules;
    const ll_meta *scores; /* SentencePiece; NULL: all 0 */
};

/* Marks the tokens that end an answer. */
bool tokenizer_mark_ends(tokenizer *t, const gguf *g, ll_error *err);

#endif
