/* device_list: a new device is one more line here and one more folder. */
#include "device/device_list.h"

#include <string.h>

#include "device/cpu/cpu.h"

const device_kind *const device_list[] = {&device_cpu, NULL};

const device_kind *device_find(const char *name, ll_error *err) {
    char known[128] = "";
    for (const device_kind *const *kind = device_list; *kind != NULL; kind++) {
        if (name == NULL || strcmp((*kind)->name, name) == 0) return *kind;
        ll_list_name(known, sizeof known, (*kind)->name);
    }
    ll_fail(err, LL_ERR_ARGUMENT, "no device \"%.32s\"; there are %s", name, known);
    return NULL;
}
