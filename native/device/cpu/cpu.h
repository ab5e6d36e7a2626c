/* cpu: the processor as a device, for the list of devices. */
#ifndef LL_DEVICE_CPU_CPU_H
#define LL_DEVICE_CPU_CPU_H

#include "device/device.h"

extern const device_kind device_cpu;

#endif
