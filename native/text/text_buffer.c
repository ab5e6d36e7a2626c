/* text_buffer: grown by taking new memory, as its content is never needed again. */
#include "text/text_buffer.h"

#include <stdlib.h>

bool text_buffer_reserve(text_buffer *b, size_t n_bytes, ll_error *err) {
    if (n_bytes <= b->capacity) return true;
    free(b->data);
    b->data = malloc(n_bytes);
    b->capacity = b->data ? n_bytes : 0;
    if (b->data) return true;
    return ll_fail(err, LL_ERR_MEMORY, "no memory to tokenize a text of %zu bytes", n_bytes);
}
