/* gguf_internal: what the reader's files share.
 *
 * gguf_file.c owns what is open and calls the header's walk (gguf_parse.c) and what joins the files
 * of a split model (gguf_split.c); those call the lookups (gguf.c), which call none of them.
 *
 * Everything points into the header's bytes: a key's or a name's place in the file is its
 * address minus `base`, so no offsets are stored beside it.
 */
#ifndef LL_FORMAT_GGUF_INTERNAL_H
#define LL_FORMAT_GGUF_INTERNAL_H

#include "format/gguf.h"

struct gguf {
    const uint8_t *base;
    size_t header_bytes; /* those given, at most file_bytes */
    uint64_t file_bytes; /* of all files, once they are joined */
    bool mapped;         /* base is ours to unmap */

    gguf **others; /* [n_others], the second and later files of a split model; owned */
    uint32_t n_others;

    uint64_t n_meta, n_tensors;
    ll_meta *meta;        /* [n_meta], in file order */
    gguf_tensor *tensors; /* [n_tensors], in file order */
    /* The same, sorted by name. ll_meta and gguf_tensor begin with theirs. */
    const ll_string **meta_by_name;    /* [n_meta] */
    const ll_string **tensors_by_name; /* [n_tensors] */
};

/* Frees what gguf_parse allocated; neither the header's bytes nor other files. */
void gguf_release(gguf *g);

/* Bytes of one value of a type, or 0 where values differ in length. */
uint32_t gguf_value_bytes(ll_value_type type);
const char *gguf_value_name(ll_value_type type);

/* Byte order of names: negative, 0 or positive. */
int gguf_compare_names(const ll_string *a, const ll_string *b);

#endif
