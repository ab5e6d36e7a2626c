/* cpu_memory: where everything of the device lies, and how many bytes that takes. */
#ifndef LL_DEVICE_CPU_CPU_MEMORY_H
#define LL_DEVICE_CPU_CPU_MEMORY_H

#include "device/cpu/cpu_state.h"

/* Fills the bytes of scratch, logits and KV of `out` for a device that has a plan, kernels and
 * options and is not open; `need` is the most that any of its phases needs. */
void cpu_plan_bytes(cpu *d, const scratch_need *need, ll_memory *out);
/* See device_kind. */
void cpu_measure_memory(const device *d, ll_memory *out);
/* Reserves as much as cpu_plan_bytes says and places everything there. Errors: MEMORY. */
bool cpu_place(cpu *d, const scratch_need *need, ll_error *err);
void cpu_release(cpu *d);

/* See device_kind. */
size_t cpu_block_bytes(const device *d, uint32_t group);
bool cpu_get_block(const device *d, uint32_t group, uint32_t block, void *out, ll_error *err);
bool cpu_put_block(device *d, uint32_t group, uint32_t block, const void *kv, ll_error *err);
bool cpu_copy_block(device *d, uint32_t group, uint32_t from, uint32_t to, ll_error *err);

/* Row i of a step's buffer; the residual alone is indexed by the row of the batch. */
float *cpu_buffer_row(const cpu *d, buffer_id buffer, const row_set *set, uint32_t i);

/* Scratch of one thread: the kernels' panel, what a task works on, and one row of floats. */
void *cpu_thread_panel(const cpu *d, uint32_t thread);
float *cpu_thread_floats(const cpu *d, uint32_t thread); /* [thread_floats] */
float *cpu_thread_row(const cpu *d, uint32_t thread);    /* [widest input] */

/* Keys and values of one block, layer and head: chunks as format/kv.h lays their types out. */
void *cpu_keys(const cpu *d, const step *s, uint32_t block, uint32_t kv_head);
void *cpu_values(const cpu *d, const step *s, uint32_t block, uint32_t kv_head);

#endif
