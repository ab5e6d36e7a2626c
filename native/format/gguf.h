/* gguf: one GGUF file, or all files of a split model, mapped read-only, each header checked once.
 *
 * Works on the bytes it is given and a declared file size, so a mapped file, a sparse file and a
 * header fetched from a remote server use the same code. No weight is copied; no allocation is
 * sized by a number the file declares before that number is held against the bytes that are left.
 */
#ifndef LL_FORMAT_GGUF_H
#define LL_FORMAT_GGUF_H

#include "base/error.h"
#include "format/quant.h"
#include "localllm_measure.h"

typedef struct gguf_tensor {
    ll_string name;
    const quant_traits *quant; /* NULL: a ggml type this engine has no row for */
    uint32_t ggml_id;
    uint32_t n_dims;   /* 1 to 4 */
    uint64_t shape[4]; /* innermost first; unused dimensions are 1 */
    uint64_t offset;   /* of the first byte, from the start of the tensor's own file */
    uint64_t n_bytes;  /* 0 where quant is NULL */
    const void *data;  /* NULL where it was not given or quant is NULL */
} gguf_tensor;

typedef struct gguf gguf;

/* Maps and checks a file, and with any file of a split model all of them: the metadata are the
 * first one's, the tensors everybody's. Errors: IO, FORMAT (with the byte offset), UNSUPPORTED,
 * MEMORY. */
gguf *gguf_open(const char *path, ll_error *err);

/* Checks a header held in memory (not copied: it must outlive the gguf) of a file that is
 * file_bytes long. Tensors whose bytes lie beyond header_bytes get no data. ARGUMENT where what
 * was given ends within the header: the file may be sound, more of it is needed. */
gguf *gguf_parse(const void *header, size_t header_bytes, uint64_t file_bytes, ll_error *err);

void gguf_close(gguf *g);

uint64_t gguf_file_bytes(const gguf *g); /* of all files */
uint64_t gguf_n_meta(const gguf *g);
const ll_meta *gguf_meta(const gguf *g, uint64_t i); /* NULL from n_meta on */
uint64_t gguf_n_tensors(const gguf *g);
const gguf_tensor *gguf_tensors(const gguf *g); /* [n_tensors] */

/* Which of the model's files a tensor of this name, as gguf_tensors has it, lies in; from 0. */
uint32_t gguf_file_of(const gguf *g, ll_string name);

/* find_: NULL where the file has no such key or tensor. Keys and names are NUL-terminated. */
const ll_meta *gguf_find_key(const gguf *g, const char *key);
const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name);

/* Typed reads. Each returns true and sets *out where the key exists with a convertible type;
 * returns true and leaves *out alone where the key is absent; fails with FORMAT where it exists
 * with another type or a value out of range. Any integer type converts to u32 if it fits. */
bool gguf_read_u32(const gguf *g, const char *key, uint32_t *out, ll_error *err);
bool gguf_read_i32(const gguf *g, const char *key, int32_t *out, ll_error *err);
bool gguf_read_f32(const gguf *g, const char *key, float *out, ll_error *err);
bool gguf_read_bool(const gguf *g, const char *key, bool *out, ll_error *err);
bool gguf_read_string(const gguf *g, const char *key, ll_string *out, ll_error *err);

/* Element i of an array or, with i ignored, a scalar: what per-layer keys allow. */
bool gguf_read_u32_at(const gguf *g, const char *key, uint64_t i, uint32_t *out, ll_error *err);
bool gguf_read_bool_at(const gguf *g, const char *key, uint64_t i, bool *out, ll_error *err);

/* A walk over an array of strings: start with *cursor = array->data, call once per element. */
ll_string gguf_next_string(const uint8_t **cursor);

/* Unaligned little-endian element i of an array of any numeric type, i32 clamped to its range; 0
 * beyond the array's end or where it holds no numbers. */
float gguf_f32_at(const ll_meta *array, uint64_t i);
int32_t gguf_i32_at(const ll_meta *array, uint64_t i);

#endif
