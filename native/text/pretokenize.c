/* pretokenize: the stages as cursors over UTF-8, the families as lists of stages, the rows.
 *
 * The regular expression a function stands for is written above it. Alternatives are tried in
 * order and each takes all it can, which is all these expressions need: none backtracks further
 * than one character. Names and families are those of llama.cpp's vocabulary loader.
 */
#include "text/pretokenize.h"

#include <stdio.h>
#include <string.h>

#include "text/unicode.h"

typedef struct glyph {
    uint32_t code;
    unicode_class class;
    size_t length;
} glyph;

static glyph look(const char *text, size_t at, size_t end) {
    if (at >= end) return (glyph){0, UNICODE_END, 0};
    unsigned char c = (unsigned char)text[at];
    if ((c | 0x20u) >= 'a' && (c | 0x20u) <= 'z') return (glyph){c, UNICODE_LETTER, 1};
    glyph g;
    bool valid;
    g.code = unicode_decode(text + at, end - at, &g.length, &valid);
    g.class = unicode_classify(g.code);
    return g;
}

static bool is_newline(glyph g) { return g.code == '\n' || g.code == '\r'; }

/* [^\s\p{L}\p{N}] */
static bool is_symbol(glyph g) {
    return g.class == UNICODE_OTHER || g.class == UNICODE_PUNCTUATION;
}

static bool is_digit(glyph g) { return g.code >= '0' && g.code <= '9'; }
static bool is_number(glyph g) { return g.class == UNICODE_NUMBER; }

/* [\p{P}$+<=>^~|] */
static bool is_operator(glyph g) {
    return g.class == UNICODE_PUNCTUATION ||
           (g.code != 0 && g.code < 0x80 && strchr("$+<=>^~|", (int)g.code) != NULL);
}

static size_t skip_class(const char *text, size_t at, size_t end, unicode_class class) {
    for (glyph g = look(text, at, end); g.class == class; g = look(text, at, end)) at += g.length;
    return at;
}

/* The end of the run of characters that agree with the first on `test`: a match or a gap. */
static size_t skip_alike(const char *text, size_t at, size_t end, bool (*test)(glyph)) {
    bool first = test(look(text, at, end));
    while (at < end) {
        glyph g = look(text, at, end);
        if (test(g) != first) break;
        at += g.length;
    }
    return at;
}

static size_t skip_symbols(const char *text, size_t at, size_t end) {
    for (glyph g = look(text, at, end); is_symbol(g); g = look(text, at, end)) at += g.length;
    return at;
}

/* 's|'t|'re|'ve|'m|'ll|'d: the end, or `at` where there is none. */
static size_t skip_contraction(const char *text, size_t at, size_t end, bool any_case) {
    static const char *const tails[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    if (text[at] != '\'') return at;
    unsigned fold = any_case ? 0x20 : 0;
    for (size_t i = 0; i < sizeof tails / sizeof tails[0]; i++) {
        size_t n = strlen(tails[i]), j = 0;
        while (j < n && at + 1 + j < end &&
               ((unsigned char)text[at + 1 + j] | fold) == (unsigned char)tails[i][j])
            j++;
        if (j == n) return at + 1 + n;
    }
    return at;
}

/* (\s*[\r\n]+|)\s+(?!\S)|\s+ where the first part only counts with `newlines`: up to the last
 * newline of the run; else the run without its last character, which leads the next word, unless
 * the run ends the text. */
static size_t split_space(const char *text, size_t at, size_t end, bool newlines) {
    size_t run = at, last = at, after_newline = at;
    for (glyph g = look(text, run, end); g.class == UNICODE_SPACE; g = look(text, run, end)) {
        last = run;
        run += g.length;
        if (is_newline(g)) after_newline = run;
    }
    if (newlines && after_newline > at) return after_newline;
    return run < end && last > at ? last : run;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t split_gpt2(const char *text, size_t at, size_t end) {
    size_t body = skip_contraction(text, at, end, false);
    if (body > at) return body;
    glyph g = look(text, body, end);
    if (g.code == ' ') g = look(text, ++body, end);
    if (is_symbol(g)) return skip_symbols(text, body, end);
    if (g.class == UNICODE_LETTER || g.class == UNICODE_NUMBER)
        return skip_class(text, body, end, g.class);
    return split_space(text, at, end, false);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,max_digits}
 * | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ with ASCII letters in the contractions */
static size_t split_words(const char *text, size_t at, size_t end, int max_digits) {
    size_t body = skip_contraction(text, at, end, true);
    if (body > at) return body;
    glyph g = look(text, at, end);
    if (g.class == UNICODE_LETTER) return skip_class(text, at, end, UNICODE_LETTER);
    glyph next = look(text, at + g.length, end);
    if (next.class == UNICODE_LETTER && !is_newline(g) && !is_number(g))
        return skip_class(text, at + g.length, end, UNICODE_LETTER);
    if (is_number(g)) {
        for (int i = 0; i < max_digits && is_number(g); i++) {
            at += g.length;
            g = look(text, at, end);
        }
        return at;
    }
    if (is_symbol(g) || (g.code == ' ' && is_symbol(next))) {
        at = skip_symbols(text, at + g.length, end);
        while (at < end && (text[at] == '\r' || text[at] == '\n')) at++;
        return at;
    }
    return split_space(text, at, end, true);
}

static size_t split_llama3(const char *text, size_t at, size_t end) {
    return split_words(text, at, end, 3);
}

static size_t split_qwen2(const char *text, size_t at, size_t end) {
    return split_words(text, at, end, 1);
}

/* \p{N} */
static size_t split_single_numbers(const char *text, size_t at, size_t end) {
    glyph g = look(text, at, end);
    return is_number(g) ? at + g.length : skip_alike(text, at, end, is_number);
}

/* \p{N}+ */
static size_t split_numbers(const char *text, size_t at, size_t end) {
    return skip_alike(text, at, end, is_number);
}

/* [\p{P}$+<=>^~|]+ */
static size_t split_operators(const char *text, size_t at, size_t end) {
    return skip_alike(text, at, end, is_operator);
}

/* [0-9][0-9][0-9] */
static size_t split_three_digits(const char *text, size_t at, size_t end) {
    size_t n_digits = 0;
    for (size_t i = at; i < end; i++) {
        n_digits = is_digit((glyph){(unsigned char)text[i], UNICODE_OTHER, 1}) ? n_digits + 1 : 0;
        if (n_digits == 3) return i - 2 > at ? i - 2 : i + 1;
    }
    return end;
}

static pretokenize_stage *const family_gpt2[PRETOKENIZE_STAGES] = {split_gpt2};
static pretokenize_stage *const family_starcoder[PRETOKENIZE_STAGES] = {split_single_numbers,
                                                                        split_gpt2};
static pretokenize_stage *const family_llama3[PRETOKENIZE_STAGES] = {split_llama3};
static pretokenize_stage *const family_qwen2[PRETOKENIZE_STAGES] = {split_qwen2};
static pretokenize_stage *const family_default[PRETOKENIZE_STAGES] = {
    split_operators, split_gpt2, split_numbers, split_three_digits};

/* name, family, ignore_merges, add_bos, no_bos */
static const pretokenizer rows[] = {
    {"default",          family_default,   false, false, false},
    {"gpt-2",            family_gpt2,      false, false, false},
    {"phi-2",            family_gpt2,      false, false, false},
    {"jina-es",          family_gpt2,      false, false, false},
    {"jina-de",          family_gpt2,      false, false, false},
    {"jina-v2-es",       family_gpt2,      false, false, false},
    {"jina-v2-de",       family_gpt2,      false, false, false},
    {"jina-v1-en",       family_gpt2,      false, false, false},
    {"jina-v2-code",     family_gpt2,      false, false, false},
    {"roberta-bpe",      family_gpt2,      false, false, false},
    {"gigachat",         family_gpt2,      false, false, false},
    {"a.x-4.0",          family_gpt2,      false, false, false},
    {"mellum",           family_gpt2,      false, false, false},
    {"modern-bert",      family_gpt2,      false, false, false},
    {"exaone4",          family_gpt2,      false, false, false},
    {"mpt",              family_gpt2,      false, false, false},
    {"olmo",             family_gpt2,      false, false, false},
    {"jais",             family_gpt2,      false, false, false},
    {"trillion",         family_gpt2,      false, false, false},
    {"granite-docling",  family_gpt2,      false, false, false},
    {"smollm",           family_starcoder, false, false, false},
    {"command-r",        family_starcoder, false, false, false},
    {"starcoder",        family_starcoder, false, false, false},
    {"refact",           family_starcoder, false, false, false},
    {"codeshell",        family_starcoder, false, false, false},
    {"exaone",           family_starcoder, false, false, false},
    {"minerva-7b",       family_starcoder, false, false, false},
    {"mellum2",          family_starcoder, false, false, false},
    {"llama-bpe",        family_llama3,    true,  true,  false},
    {"llama3",           family_llama3,    true,  true,  false},
    {"llama-v3",         family_llama3,    true,  true,  false},
    {"falcon3",          family_llama3,    true,  true,  false},
    {"falcon-h1",        family_llama3,    true,  true,  false},
    {"pixtral",          family_llama3,    true,  true,  false},
    {"midm-2.0",         family_llama3,    true,  true,  false},
    {"lfm2",             family_llama3,    true,  true,  false},
    {"jina-v5-nano",     family_llama3,    true,  true,  false},
    {"smaug-bpe",        family_llama3,    false, false, false},
    {"dbrx",             family_llama3,    false, false, false},
    {"chatglm-bpe",      family_llama3,    false, false, true },
    {"glm4",             family_llama3,    true,  false, true },
    {"glm5",             family_llama3,    true,  false, true },
    {"qwen2",            family_qwen2,     false, false, false},
    {"deepseek-r1-qwen", family_qwen2,     false, false, false},
    {"kormo",            family_qwen2,     false, false, false},
    {"f2llmv2",          family_qwen2,     false, false, false},
    {"hunyuan",          family_qwen2,     false, false, false},
    {"solar-open",       family_qwen2,     false, false, false},
    {"grok-2",           family_qwen2,     false, false, false},
    {"megrez",           family_qwen2,     false, false, false},
    {"stablelm2",        family_qwen2,     false, false, false},
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

const pretokenizer *pretokenizer_find(ll_string name) {
    for (size_t i = 0; i < N_ROWS; i++)
        if (strlen(rows[i].name) == name.n_bytes &&
            memcmp(rows[i].name, name.data, name.n_bytes) == 0)
            return &rows[i];
    return NULL;
}

void pretokenizer_names(char *out, size_t capacity) {
    static const char more[] = " and more";
    size_t used = 0;
    for (size_t i = 0; i < N_ROWS; i++) {
        if (used + strlen(rows[i].name) + 2 + sizeof more > capacity) {
            memcpy(out + used, more, sizeof more);
            return;
        }
        used += (size_t)snprintf(out + used, capacity - used, "%s%s", i ? ", " : "", rows[i].name);
    }
}

void pretokenize_start(pretokenize_walk *w, const pretokenizer *pre, const char *text,
                       size_t n_bytes) {
    *w = (pretokenize_walk){.pre = pre, .text = text, .n_bytes = n_bytes};
}

bool pretokenize_next(pretokenize_walk *w, ll_string *piece) {
    if (w->at >= w->n_bytes) return false;
    size_t end = w->n_bytes;
    for (int i = 0; i < PRETOKENIZE_STAGES && w->pre->stages[i]; i++) {
        if (w->ends[i] <= w->at) w->ends[i] = w->pre->stages[i](w->text, w->at, end);
        end = w->ends[i];
    }
    *piece = (ll_string){w->text + w->at, end - w->at};
    w->at = end;
    return true;
}
