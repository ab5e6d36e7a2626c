/* device_list: the devices there are. */
#ifndef LL_DEVICE_DEVICE_LIST_H
#define LL_DEVICE_DEVICE_LIST_H

#include "device/device.h"

extern const device_kind *const device_list[]; /* NULL-terminated; the first is the default */

/* The device of that name, the first of the list for NULL; ARGUMENT, naming those there are. */
const device_kind *device_find(const char *name, ll_error *err);

#endif
