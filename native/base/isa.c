/* isa: CPUID through the compiler's own check (which also asks the operating system, XGETBV), what
 * the operating system says of an ARM processor, and the floating-point control word. */
#include "base/isa.h"

#if defined(__x86_64__)

#include <immintrin.h>

bool isa_has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}

bool isa_has_avx2_vnni(void) { return isa_has_avx2() && __builtin_cpu_supports("avxvnni"); }

bool isa_has_avx512(void) {
    return isa_has_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

bool isa_has_avx512_amd(void) { return isa_has_avx512() && __builtin_cpu_is("amd"); }

enum { MXCSR_EXACT = 0x1f80 }; /* all exceptions masked, round to nearest, no FTZ, no DAZ */

uint64_t isa_enter_exact(void) {
    uint32_t state = _mm_getcsr();
    _mm_setcsr(MXCSR_EXACT);
    return state;
}

void isa_restore(uint64_t state) { _mm_setcsr((uint32_t)state); }

void isa_pause(void) { _mm_pause(); }

#elif defined(__aarch64__)

#include "base/system.h"

bool isa_has_avx2(void) { return false; }
bool isa_has_avx2_vnni(void) { return false; }
bool isa_has_avx512(void) { return false; }
bool isa_has_avx512_amd(void) { return false; }

bool isa_has_neon(void) { return true; }
bool isa_has_neon_dotprod(void) { return system_has_arm(ARM_DOTPROD); }
bool isa_has_neon_i8mm(void) { return isa_has_neon_dotprod() && system_has_arm(ARM_I8MM); }

uint64_t isa_enter_exact(void) {
    uint64_t state, exact = 0; /* FPCR 0: round to nearest, no flush to zero */
    __asm__ volatile("mrs %0, fpcr" : "=r"(state));
    __asm__ volatile("msr fpcr, %0" : : "r"(exact));
    return state;
}

void isa_restore(uint64_t state) { __asm__ volatile("msr fpcr, %0" : : "r"(state)); }

void isa_pause(void) { __asm__ volatile("yield"); }

#else

#include <fenv.h>

bool isa_has_avx2(void) { return false; }
bool isa_has_avx2_vnni(void) { return false; }
bool isa_has_avx512(void) { return false; }
bool isa_has_avx512_amd(void) { return false; }

uint64_t isa_enter_exact(void) {
    int rounding = fegetround();
    (void)fesetround(FE_TONEAREST);
    return (uint64_t)rounding;
}

void isa_restore(uint64_t state) { (void)fesetround((int)state); }

void isa_pause(void) {}

#endif
