/* tokenizer: text to ids and back, built from a GGUF file's tokenizer.* keys.
 *
 * One struct for every kind; a kind (byte-level BPE, SentencePiece) is one file with an encode
 * function, named in the table in tokenizer.c. Token texts are borrowed from the mapping. Special
 * tokens are cut out of the text first; what lies between them can never become a control token.
 */
#ifndef LL_TEXT_TOKENIZER_H
#define LL_TEXT_TOKENIZER_H

#include "format/gguf.h"

typedef struct tokenizer tokenizer;

/* The gguf must outlive the tokenizer. Errors: FORMAT, UNSUPPORTED (names the model or
 * pre-tokenizer found and those known), MEMORY. */
tokenizer *tokenizer_open(const gguf *g, ll_error *err);
void tokenizer_close(tokenizer *t);

uint32_t tokenizer_n_vocab(const tokenizer *t);
size_t tokenizer_memory_bytes(const tokenizer *t); /* what it allocated */

/* The contracts of ll_tokenize, ll_token_bytes, ll_token_is_end and their neighbours. */
bool tokenizer_encode(const tokenizer *t, const char *text, size_t n_bytes, ll_parse parse,
                      bool add_special, int32_t *ids, size_t capacity, size_t *n_ids,
                      ll_error *err);
int32_t tokenizer_token_bytes(const tokenizer *t, int32_t id, bool control, char *out,
                              size_t capacity);
const char *tokenizer_end_text(size_t i); /* see ll_end_text */
bool tokenizer_is_end(const tokenizer *t, int32_t id);
bool tokenizer_is_control(const tokenizer *t, int32_t id);
int32_t tokenizer_find(const tokenizer *t, const char *text, size_t n_bytes);
bool tokenizer_adds_bos(const tokenizer *t);
int32_t tokenizer_bos(const tokenizer *t);
int32_t tokenizer_eos(const tokenizer *t);

#endif
