/* gguf_split: the files of a split model, joined behind the first one's header.
 *
 * A split model is files named <prefix>-00001-of-00003.gguf; the first holds the metadata, any of
 * them tensors. Names are derived from the one that was given, never read from a file.
 */
#ifndef LL_FORMAT_GGUF_SPLIT_H
#define LL_FORMAT_GGUF_SPLIT_H

#include "format/gguf.h"

/* Takes the file at `path`, opens the other files of its model where it says that there are any,
 * and returns the first with everybody's tensors. `file` is closed or part of what is returned.
 * Every failure names the file it is about. Errors: those of gguf_open. */
gguf *gguf_join(gguf *file, const char *path, ll_error *err);

/* Which of the model's files a tensor of this name, as gguf_tensors has it, lies in; from 0. */
uint32_t gguf_file_of(const gguf *g, ll_string name);

#endif
