/* text_buffer: memory for a text that one encode call makes, kept between its fragments. */
#ifndef LL_TEXT_TEXT_BUFFER_H
#define LL_TEXT_TEXT_BUFFER_H

#include "base/error.h"

typedef struct text_buffer {
    char *data;
    size_t capacity;
} text_buffer;

/* Room for n_bytes; what was in the buffer is lost. */
bool text_buffer_reserve(text_buffer *b, size_t n_bytes, ll_error *err);

#endif
