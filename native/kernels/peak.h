/* peak: how fast an instruction set multiplies and adds at most.
 *
 * A loop is nothing but independent chains of the one instruction that the kernels live by, so its
 * rate is the ceiling of anything they can do. It is in assembly, because a compiler puts register
 * copies between the intrinsics. Twelve chains hide the latency of two instructions a cycle on
 * every x86 processor known to us (five cycles at most), and sixteen that of NEON's four pipes.
 */
#ifndef LL_KERNELS_PEAK_H
#define LL_KERNELS_PEAK_H

#include <stdint.h>

typedef enum peak_kind { PEAK_INT8, PEAK_FLOAT, N_PEAKS } peak_kind;

typedef struct peak_loop {
    void (*run)(uint64_t n_turns);
    uint64_t macs; /* multiply-adds of one turn */
} peak_loop;

/* PEAK_LOOP(name, instruction): a loop whose turn is the assembly instruction(i) of every chain i.
 * It may read two registers and overwrite one beside that of its chain: 12, 13 and 14 on x86, 24,
 * 25 and none on ARM. All begin as zeros: a subnormal would slow the float loops down. */
#if defined(__x86_64__)

enum { PEAK_CHAINS = 12 };
#define PEAK_EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define PEAK_REGISTERS                                                                             \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",       \
        "xmm11", "xmm12", "xmm13", "xmm14"
#define PEAK_CLEAR(i) "vxorps %%ymm" #i ", %%ymm" #i ", %%ymm" #i "\n\t"
#define PEAK_LOOP(name, instruction)                                                               \
    void name(uint64_t n_turns) {                                                                  \
        __asm__ volatile(PEAK_EACH(PEAK_CLEAR) PEAK_CLEAR(12)                                      \
                             PEAK_CLEAR(13) ".balign 32\n\t"                                       \
                                            "1:\n\t" PEAK_EACH(instruction) "dec %0\n\t"           \
                                                                            "jnz 1b\n\t"           \
                                                                            "vzeroupper"           \
                         : "+r"(n_turns)                                                           \
                         :                                                                         \
                         : "cc", PEAK_REGISTERS);                                                  \
    }

#elif defined(__aarch64__)

enum { PEAK_CHAINS = 16 };
#define PEAK_EACH(X)                                                                               \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)
#define PEAK_REGISTERS                                                                             \
    "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v20", "v21",      \
        "v22", "v23", "v24", "v25"
#define PEAK_CLEAR(i) "movi v" #i ".16b, #0\n\t"
#define PEAK_LOOP(name, instruction)                                                               \
    void name(uint64_t n_turns) {                                                                  \
        __asm__ volatile(PEAK_EACH(PEAK_CLEAR) PEAK_CLEAR(24)                                      \
                             PEAK_CLEAR(25) ".balign 32\n\t"                                       \
                                            "1:\n\t" PEAK_EACH(instruction) "subs %0, %0, #1\n\t"  \
                                                                            "b.ne 1b"              \
                         : "+r"(n_turns)                                                           \
                         :                                                                         \
                         : "cc", PEAK_REGISTERS);                                                  \
    }

#endif

#endif
