/* isa: which instructions this processor and operating system allow, asked once, and the state
 * the canonical arithmetic needs from the floating-point unit.
 */
#ifndef LL_BASE_ISA_H
#define LL_BASE_ISA_H

#include <stdbool.h>
#include <stdint.h>

bool isa_has_avx2(void);       /* with FMA and F16C */
bool isa_has_avx2_vnni(void);  /* with AVX-VNNI too */
bool isa_has_avx512(void);     /* F, BW, DQ, VL, VNNI */
bool isa_has_avx512_amd(void); /* the same, made by AMD */

#if defined(__aarch64__)
bool isa_has_neon(void); /* a part of every aarch64 */
bool isa_has_neon_dotprod(void);
bool isa_has_neon_i8mm(void); /* with dotprod */
#endif

/* Round to nearest, subnormals honoured; returns the state to hand back to isa_restore. */
uint64_t isa_enter_exact(void);
void isa_restore(uint64_t state);

/* A hint that this thread is spinning. */
void isa_pause(void);

#endif
