/* gguf_split: what makes several files one model: their names, their keys, one table of tensors.
 *
 * A split model is files named <prefix>-00001-of-00003.gguf; the first holds the metadata, any of
 * them tensors. Names are derived from the one that was given, never read from a file. Every
 * failure names the file it is about.
 */
#ifndef LL_FORMAT_GGUF_SPLIT_H
#define LL_FORMAT_GGUF_SPLIT_H

#include "format/gguf_internal.h"

typedef struct split_name {
    char *path;       /* as long as the caller's: every file's ending has the same length */
    size_t n_prefix;  /* bytes before the ending */
    const char *base; /* of the path, behind its folders */
} split_name;

/* Takes the path of any one of `count` files. FORMAT where its name does not say so. */
bool split_open_name(split_name *s, const char *path, uint32_t count, ll_error *err);
void split_close_name(split_name *s);

/* Makes s->path the path of a file of the model; numbers begin with 1. */
void split_set_name(split_name *s, uint32_t number, uint32_t count);

/* A message that begins with the file's name; the cause keeps its code and its byte. */
bool split_fail_in(const split_name *s, const ll_error *cause, ll_error *err);

/* Whether the file that s names is the one of this number; `first` is the model's first file, g
 * itself where it is that. */
bool split_check_file(const split_name *s, const gguf *g, uint32_t number, uint32_t count,
                      const gguf *first, ll_error *err);

/* Gives the first file the tensors of g->others too. */
bool split_join_tensors(gguf *g, split_name *s, ll_error *err);

#endif
