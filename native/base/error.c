/* error: filling an ll_error, and the names of its codes. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool ll_fail(ll_error *err, ll_error_code code, const char *format, ...) {
    if (err == NULL || err->code != LL_OK) return false;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    err->code = code;
    err->offset = 0;
    return false;
}

void ll_list_name(char *list, size_t capacity, const char *name) {
    size_t used = strlen(list);
    (void)snprintf(list + used, capacity - used, used > 0 ? ", %s" : "%s", name);
}

const char *ll_error_name(ll_error_code code) {
    switch (code) {
    case LL_OK:
        return "ok";
#define X(name, text)                                                                              \
    case LL_ERR_##name:                                                                            \
        return text;
        LL_ERRORS(X)
#undef X
    }
    return "unknown";
}
