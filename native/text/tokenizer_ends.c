/* tokenizer_ends: which tokens end an answer.
 *
 * Files often name only one of them, so the keys are joined by the texts that models are known to
 * end with, whatever type the file gives them. The texts are those of llama.cpp's loader.
 */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_kind.h"

static const char *const keys[] = {
    "tokenizer.ggml.eos_token_id",     "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",     "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_rep_token_id", "tokenizer.ggml.fim_sep_token_id",
};

static const char *const texts[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    /* fill-in-the-middle: padding, repository and file separators */
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
};

const char *tokenizer_end_text(size_t i) {
    return i < sizeof texts / sizeof texts[0] ? texts[i] : NULL;
}

static int32_t find(const tokenizer *t, const char *text) {
    return vocabulary_find(&t->vocab, text, strlen(text));
}

static bool has(const tokenizer *t, const char *text) { return find(t, text) >= 0; }

static void set(tokenizer *t, int32_t id) {
    if (vocabulary_has(&t->vocab, id)) t->ends[id / 8] |= (uint8_t)(1u << id % 8);
}

static void clear(tokenizer *t, const char *text) {
    int32_t id = find(t, text);
    if (id >= 0) t->ends[id / 8] &= (uint8_t)~(1u << id % 8);
}

bool tokenizer_mark_ends(tokenizer *t, const gguf *g, ll_error *err) {
    t->ends = calloc((t->vocab.n_tokens + 7) / 8, 1);
    if (!t->ends) return ll_fail(err, LL_ERR_MEMORY, "no memory for the end tokens");
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) set(t, find(t, texts[i]));
    /* Where a message ends in one of several ways, <|end|> only ends a part of the answer. */
    bool parts = has(t, "<|call|>") && (has(t, "<|return|>") || has(t, "<|flush|>"));
    if (parts || (has(t, "<|calls|>") && has(t, "<|flush|>"))) clear(t, "<|end|>");
    /* In these vocabularies </s> is a piece of HTML. */
    if (has(t, "<|tool_response>") || has(t, "<|plamo:eos|>")) clear(t, "</s>");
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        uint32_t id = UINT32_MAX;
        if (!gguf_read_u32(g, keys[i], &id, err)) return false;
        if (id < t->vocab.n_tokens) set(t, (int32_t)id);
    }
    set(t, t->eos);
    return true;
}
