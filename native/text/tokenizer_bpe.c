/* tokenizer_bpe: byte-level BPE (tokenizer.ggml.model "gpt2").
 *
 * Text is cut into pieces (pretokenize), a piece into bytes, and bytes are joined by the file's
 * merges. Token texts spell each byte as a printable letter: bytes that print in Latin-1 as
 * themselves, the other 68 as U+0100 and up. Only vocabulary look-ups need that spelling; merging
 * works on ids.
 *
 * What is not UTF-8 becomes U+FFFD, as the text was when the vocabulary was trained. A byte the
 * vocabulary has no token for is left out, which is what other implementations do too.
 */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_kind.h"
#include "text/unicode.h"

enum {
    LETTER_BASE = 0x100,   /* letters of the bytes that do not print */
    LETTER_DELETE = 0x121, /* of byte 0x7f; below it those of 0x00 to 0x20 */
    LETTER_SOFT_HYPHEN = 0x143,
};

static uint32_t letter_of_byte(uint8_t byte) {
    if (byte <= 0x20) return LETTER_BASE + byte;
    if (byte >= 0x7f && byte <= 0xa0) return LETTER_DELETE + (byte - 0x7fu);
    return byte == 0xad ? LETTER_SOFT_HYPHEN : byte;
}

/* -1: not a letter of the alphabet. */
static int byte_of_letter(uint32_t letter) {
    int byte = letter < LETTER_BASE          ? (int)letter
               : letter < LETTER_DELETE      ? (int)(letter - LETTER_BASE)
               : letter < LETTER_SOFT_HYPHEN ? (int)(letter - LETTER_DELETE) + 0x7f
                                             : 0xad;
    return letter_of_byte((uint8_t)byte) == letter ? byte : -1;
}

static bool find_pre(tokenizer *t, const gguf *g, ll_error *err) {
    ll_string name = {"default", strlen("default")};
    if (!gguf_read_string(g, "tokenizer.ggml.pre", &name, err)) return false;
    t->pre = pretokenizer_find(name);
    if (t->pre) return true;
    char known[400]; /* leaves room for the rest of an error message */
    pretokenizer_names(known, sizeof known);
    return ll_fail(err, LL_ERR_UNSUPPORTED, "pre-tokenizer '%.*s' is unknown; known: %s",
                   (int)(name.n_bytes < 60 ? name.n_bytes : 60), name.data, known);
}

static bool bpe_open(tokenizer *t, const gguf *g, ll_error *err) {
    if (!find_pre(t, g, err)) return false;
    t->add_bos = t->pre->add_bos;
    for (int byte = 0; byte < 256; byte++) {
        char letter[4];
        size_t n = unicode_encode(letter_of_byte((uint8_t)byte), letter);
        t->byte_ids[byte] = vocabulary_find_plain(&t->vocab, letter, n);
    }
    return merge_rules_open(&t->rules, g, &t->vocab, err);
}

/* Copies text with U+FFFD for what is not UTF-8; returns the copy's length, at most 3 n_bytes. */
static size_t repair(const char *text, size_t n_bytes, char *out) {
    size_t n = 0, at = 0;
    while (at < n_bytes) {
        size_t good = unicode_valid_prefix(text + at, n_bytes - at);
        memcpy(out + n, text + at, good);
        n += good;
        at += good;
        if (at < n_bytes) {
            n += unicode_encode(UNICODE_REPLACEMENT, out + n);
            at++;
        }
    }
    return n;
}

/* The token that a whole piece is, or -1. */
static int32_t find_whole(const tokenizer *t, ll_string piece, char *letters) {
    size_t n = 0;
    for (size_t i = 0; i < piece.n_bytes; i++) {
        char letter[4];
        size_t n_letter = unicode_encode(letter_of_byte((uint8_t)piece.data[i]), letter);
        if (n + n_letter > t->vocab.longest) return -1;
        memcpy(letters + n, letter, n_letter);
        n += n_letter;
    }
    return vocabulary_find_plain(&t->vocab, letters, n);
}

static int32_t find_merge(const void *rules, const merge_symbol *left, const merge_symbol *right,
                          uint32_t *rank) {
    const merge_made *made = merge_rules_find(rules, left->id, right->id);
    if (!made) return -1;
    *rank = made->rank;
    return made->id;
}

static bool encode_piece(const tokenizer *t, ll_string piece, encode_work *w, ll_error *err) {
    if (t->pre->ignore_merges) {
        int32_t whole = find_whole(t, piece, w->word.data);
        if (whole >= 0) {
            encode_emit(w, whole);
            return true;
        }
    }
    merger *m = &w->merger;
    if (!merger_start(m, piece.n_bytes, err)) return false;
    for (size_t i = 0; i < piece.n_bytes; i++) {
        int32_t id = t->byte_ids[(uint8_t)piece.data[i]];
        if (id >= 0) merger_add(m, id, (uint32_t)i, 1);
    }
    merger_run(m, find_merge, &t->rules);
    for (size_t i = 0; i < m->n_symbols; i++)
        if (m->symbols[i].length > 0) encode_emit(w, m->symbols[i].id);
    return true;
}

static bool bpe_encode(const tokenizer *t, const char *text, size_t n_bytes, encode_work *w,
                       ll_error *err) {
    if (unicode_valid_prefix(text, n_bytes) < n_bytes) {
        if (!text_buffer_reserve(&w->text, 3 * n_bytes, err)) return false;
        n_bytes = repair(text, n_bytes, w->text.data);
        text = w->text.data;
    }
    if (!text_buffer_reserve(&w->word, t->vocab.longest, err)) return false;
    pretokenize_walk walk;
    pretokenize_start(&walk, t->pre, text, n_bytes);
    ll_string piece;
    while (pretokenize_next(&walk, &piece))
        if (!encode_piece(t, piece, w, err)) return false;
    return true;
}

/* A text with a character outside the alphabet was not spelled in it and stands for itself. */
static size_t bpe_decode(ll_string text, char *out, size_t capacity) {
    size_t n = 0;
    for (size_t at = 0; at < text.n_bytes; n++) {
        size_t length;
        bool valid;
        uint32_t letter = unicode_decode(text.data + at, text.n_bytes - at, &length, &valid);
        int byte = valid ? byte_of_letter(letter) : -1;
        if (byte < 0) {
            if (capacity > 0)
                memcpy(out, text.data, text.n_bytes < capacity ? text.n_bytes : capacity);
            return text.n_bytes;
        }
        if (n < capacity) out[n] = (char)byte;
        at += length;
    }
    return n;
}

const tokenizer_kind tokenizer_bpe = {
    .model = "gpt2",
    .bos = -1,
    .eos = -1,
    .open = bpe_open,
    .encode = bpe_encode,
    .decode = bpe_decode,
};
