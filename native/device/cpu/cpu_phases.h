/* cpu_phases: what the table of phases in cpu.c is made of, by the file that has it. */
#ifndef LL_DEVICE_CPU_CPU_PHASES_H
#define LL_DEVICE_CPU_CPU_PHASES_H

#include "device/cpu/cpu_state.h"

/* ---- cpu_rows.c: what goes row by row ---- */

phase_cut cpu_cut_input_rows, cpu_cut_rows;
phase_run cpu_run_embed, cpu_run_prepare, cpu_run_join;

/* ---- cpu_matmul.c: what multiplies by weights ---- */

phase_cut cpu_cut_heads, cpu_cut_weights;
phase_run cpu_run_heads, cpu_run_project, cpu_run_gate_up, cpu_run_logits;
phase_need cpu_need_heads, cpu_need_project, cpu_need_gate_up, cpu_need_logits;

/* ---- cpu_attend.c ---- */

void cpu_cut_queries(const cpu *d, row_set *set); /* before a run */
phase_cut cpu_cut_attend, cpu_cut_merge;
phase_run cpu_run_attend, cpu_run_merge;
phase_need cpu_need_attend;

#endif
