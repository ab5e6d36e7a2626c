/* cpu_append: keys and values enter the blocks of their sessions. */
#ifndef LL_DEVICE_CPU_CPU_APPEND_H
#define LL_DEVICE_CPU_CPU_APPEND_H

#include "device/cpu/cpu_state.h"

/* Rounds one KV head of every row of the batch, y [n_rows, k_dim] or [n_rows, v_dim], to the type
 * of keys or values and appends it to its session's blocks. */
void cpu_append_keys(cpu *d, const step *s, uint32_t kv_head, const float *y, uint32_t thread);
void cpu_append_values(cpu *d, const step *s, uint32_t kv_head, const float *y, uint32_t thread);
/* Bytes of a thread's panel that they touch at most. */
size_t cpu_append_scratch(const cpu *d, const step *s);

#endif
