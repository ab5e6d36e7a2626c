/* device: the list. A new device is one more line and one more folder. */
#include "device/device.h"

#include "device/cpu/cpu.h"

const device_kind *const device_list[] = {&device_cpu, NULL};
