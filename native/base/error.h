/* error: the one way a fallible function says what went wrong.
 *
 * A function that can fail returns bool (or a pointer) and takes `ll_error *err` last. The check
 * is one line that says what was found and what was expected:
 *
 *     if (n != expected) return ll_fail(err, LL_ERR_FORMAT, "found %u, expected %u", n, expected);
 *
 * The first failure is kept; nothing here allocates, prints or exits.
 */
#ifndef LL_BASE_ERROR_H
#define LL_BASE_ERROR_H

#include "localllm.h"

/* Fills err (NULL is allowed) unless it already holds a failure. Always returns false. */
bool ll_fail(ll_error *err, ll_error_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Adds a name to a list for a message, "a, b", as far as there is room. */
void ll_list_name(char *list, size_t capacity, const char *name);

#endif
