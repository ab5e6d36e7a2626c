/* tokenizer_spm: SentencePiece's BPE (tokenizer.ggml.model "llama").
 *
 * Spaces become U+2581, characters are joined as long as two neighbours make a token, the pair
 * with the highest score first. A joined symbol is always a token, since nothing else is joined;
 * so what has no token in the end is a single character, which is spelled in byte tokens. (Control
 * and unknown tokens take no part: plain text never becomes one.)
 */
#include <string.h>

#include "text/tokenizer_kind.h"
#include "text/unicode.h"

static const char space_mark[] = "\xe2\x96\x81"; /* U+2581 */
enum { SPACE_MARK_BYTES = sizeof space_mark - 1 };

static bool spm_open(tokenizer *t, const gguf *g, ll_error *err) {
    static const char digits[] = "0123456789ABCDEF";
    for (unsigned byte = 0; byte < 256; byte++) {
        char name[6] = {'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'};
        char raw = (char)byte;
        int32_t id = vocabulary_find_plain(&t->vocab, name, sizeof name);
        t->byte_ids[byte] = id >= 0 ? id : vocabulary_find_plain(&t->vocab, &raw, 1);
    }
    t->scores = gguf_find_key(g, "tokenizer.ggml.scores");
    if (!t->scores) return true;
    bool numbers = t->scores->type == LL_VALUE_ARRAY && (t->scores->element_type == LL_VALUE_F32 ||
                                                         t->scores->element_type == LL_VALUE_I32);
    if (!numbers || t->scores->n_elements != t->vocab.n_tokens)
        return ll_fail(err, LL_ERR_FORMAT,
                       "tokenizer.ggml.scores has %llu elements, expected %u floats",
                       (unsigned long long)t->scores->n_elements, t->vocab.n_tokens);
    return true;
}

/* Orders scores: the higher the score, the lower the rank. */
static uint32_t rank_of_score(float score) {
    float positive_zero = score + 0.0f;
    uint32_t bits;
    memcpy(&bits, &positive_zero, sizeof bits);
    uint32_t ascending = bits >> 31 ? ~bits : bits | 0x80000000u;
    return ~ascending;
}

typedef struct spm_rules {
    const tokenizer *t;
    const char *text;
} spm_rules;

static int32_t find_join(const void *rules, const merge_symbol *left, const merge_symbol *right,
                         uint32_t *rank) {
    const spm_rules *r = rules;
    const tokenizer *t = r->t;
    size_t n_bytes = (size_t)left->length + right->length;
    int32_t id = vocabulary_find_plain(&t->vocab, r->text + left->start, n_bytes);
    if (id >= 0) *rank = rank_of_score(t->scores ? gguf_f32_at(t->scores, (uint64_t)id) : 0.0f);
    return id;
}

/* Writes the text with its spaces marked; returns its length, at most 3 (n_bytes + 1). */
static size_t mark_spaces(const tokenizer *t, const char *text, size_t n_bytes, char *out) {
    size_t n = 0;
    if (t->add_space_prefix) {
        memcpy(out, space_mark, SPACE_MARK_BYTES);
        n = SPACE_MARK_BYTES;
    }
    for (size_t i = 0; i < n_bytes; i++) {
        if (text[i] == ' ') {
            memcpy(out + n, space_mark, SPACE_MARK_BYTES);
            n += SPACE_MARK_BYTES;
        } else {
            out[n++] = text[i];
        }
    }
    return n;
}

static bool emit_bytes(const tokenizer *t, const char *text, size_t n_bytes, encode_work *w,
                       ll_error *err) {
    for (size_t i = 0; i < n_bytes; i++) {
        int32_t id = t->byte_ids[(uint8_t)text[i]];
        if (id < 0)
            return ll_fail(err, LL_ERR_FORMAT,
                           "the vocabulary has no token for byte 0x%02X, which the text needs",
                           (uint8_t)text[i]);
        encode_emit(w, id);
    }
    return true;
}

static bool spm_encode(const tokenizer *t, const char *text, size_t n_bytes, encode_work *w,
                       ll_error *err) {
    if (!text_buffer_reserve(&w->text, SPACE_MARK_BYTES * (n_bytes + 1), err)) return false;
    const char *marked = w->text.data;
    size_t n_marked = mark_spaces(t, text, n_bytes, w->text.data);
    merger *m = &w->merger;
    if (!merger_start(m, n_marked, err)) return false;
    for (size_t at = 0; at < n_marked;) {
        size_t length;
        bool valid; /* what is not UTF-8 goes byte by byte, and ends in byte tokens */
        (void)unicode_decode(marked + at, n_marked - at, &length, &valid);
        int32_t id = vocabulary_find_plain(&t->vocab, marked + at, length);
        merger_add(m, id, (uint32_t)at, (uint32_t)length);
        at += length;
    }
    merger_run(m, find_join, &(spm_rules){t, marked});
    for (size_t i = 0; i < m->n_symbols; i++) {
        const merge_symbol *s = &m->symbols[i];
        if (s->length == 0) continue;
        if (s->id >= 0)
            encode_emit(w, s->id);
        else if (!emit_bytes(t, marked + s->start, s->length, w, err))
            return false;
    }
    return true;
}

static size_t spm_decode(ll_string text, char *out, size_t capacity) {
    size_t n = 0;
    for (size_t at = 0; at < text.n_bytes; n++) {
        bool mark = text.n_bytes - at >= SPACE_MARK_BYTES &&
                    memcmp(text.data + at, space_mark, SPACE_MARK_BYTES) == 0;
        if (n < capacity) out[n] = mark ? ' ' : text.data[at];
        at += mark ? SPACE_MARK_BYTES : 1;
    }
    return n;
}

const tokenizer_kind tokenizer_spm = {
    .model = "llama",
    .bos = 1,
    .eos = 2,
    .add_bos = true,
    .add_space_prefix = true,
    .open = spm_open,
    .encode = spm_encode,
    .decode = spm_decode,
};
