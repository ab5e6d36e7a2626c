/* cpu_measure: what a run leaves behind besides its logits, where that was asked for: the time of
 * each phase (cpu_profile.c) and the squares of each matrix's input (cpu_importance.c). */
#ifndef LL_DEVICE_CPU_CPU_MEASURE_H
#define LL_DEVICE_CPU_CPU_MEASURE_H

#include "device/cpu/cpu_state.h"

bool cpu_set_profile(device *opaque, bool on, ll_error *err);
const ll_phase_time *cpu_get_profile(const device *opaque, size_t *n_phases);
/* Around a run, and, while all threads meet, at the end of each phase. */
void cpu_profile_begin(cpu *d);
void cpu_profile_phase(cpu *d, const phase *ended);
void cpu_profile_end(cpu *d);

/* What set_importance allocates. */
size_t cpu_importance_bytes(const plan *p);
bool cpu_set_importance(device *opaque, bool on, ll_error *err);
const ll_importance *cpu_get_importance(const device *opaque, size_t *n);
/* While all threads meet, at the end of each phase. */
void cpu_collect_importance(cpu *d, const phase *ended);

#endif
