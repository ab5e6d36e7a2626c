/* peak: the loops, in assembly because a compiler puts register copies between the intrinsics.
 *
 * Twelve chains hide the latency of two instructions a cycle on every processor known to us (five
 * cycles at most), and sixteen that of NEON's four pipes.
 */
#include "machine/peak.h"

#include <math.h>
#include <string.h>

#include "base/isa.h"

/* ---- portable: what the compiler makes of the scalar kernels' own loops ---------------------- */

enum { LANES = 16, BYTES = 256 };

static volatile float float_sink;
static volatile int32_t int_sink;

static void portable_int8(uint64_t n_turns) {
    static volatile int8_t seed = 3;
    int8_t a[BYTES], b[BYTES];
    memset(a, seed, sizeof a);
    memset(b, seed, sizeof b);
    int32_t total = 0;
    for (uint64_t turn = 0; turn < n_turns; turn++) {
        int32_t sum = 0;
        a[turn % BYTES] = (int8_t)turn; /* so that no turn is the one before it */
        for (int i = 0; i < BYTES; i++) sum += a[i] * b[i];
        total ^= sum;
    }
    int_sink = total;
}

static void portable_float(uint64_t n_turns) {
    float sums[LANES] = {0}, factor = float_sink;
    for (uint64_t turn = 0; turn < n_turns; turn++)
        for (int i = 0; i < LANES; i++) sums[i] = fmaf(factor, factor, sums[i]);
    for (int i = 0; i < LANES; i++) float_sink = sums[i];
}

/* ---- x86-64 ---------------------------------------------------------------------------------- */

#if defined(__x86_64__)

enum { CHAINS = 12 };
#define EACH_CHAIN(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define REGISTERS                                                                                  \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",       \
        "xmm11", "xmm12", "xmm13", "xmm14"

/* Zeros everywhere: a subnormal left in a register would slow the float loops down. */
#define CLEAR(i) "vxorps %%ymm" #i ", %%ymm" #i ", %%ymm" #i "\n\t"

#define PEAK_LOOP(name, isa, instruction)                                                          \
    __attribute__((target(isa))) static void name(uint64_t n_turns) {                              \
        __asm__ volatile(EACH_CHAIN(CLEAR) CLEAR(12)                                               \
                             CLEAR(13) ".balign 32\n\t"                                            \
                                       "1:\n\t" EACH_CHAIN(instruction) "dec %0\n\t"               \
                                                                        "jnz 1b\n\t"               \
                                                                        "vzeroupper"               \
                         : "+r"(n_turns)                                                           \
                         :                                                                         \
                         : "cc", REGISTERS);                                                       \
    }

#define DOT_512(i) "vpdpbusd %%zmm12, %%zmm13, %%zmm" #i "\n\t"
#define FMA_512(i) "vfmadd231ps %%zmm12, %%zmm13, %%zmm" #i "\n\t"
#define DOT_VEX(i) "%{vex%} vpdpbusd %%ymm12, %%ymm13, %%ymm" #i "\n\t"
#define FMA_256(i) "vfmadd231ps %%ymm12, %%ymm13, %%ymm" #i "\n\t"
/* Products of bytes come in pairs as int16; without the sum they would not be multiply-adds. */
#define DOT_256(i)                                                                                 \
    "vpmaddubsw %%ymm12, %%ymm13, %%ymm14\n\t"                                                     \
    "vpaddw %%ymm14, %%ymm" #i ", %%ymm" #i "\n\t"

PEAK_LOOP(avx512_int8, "avx512f,avx512vnni", DOT_512)
PEAK_LOOP(avx512_float, "avx512f", FMA_512)
PEAK_LOOP(avx2_vnni_int8, "avx2", DOT_VEX)
PEAK_LOOP(avx2_int8, "avx2", DOT_256)
PEAK_LOOP(avx2_float, "avx2,fma", FMA_256)

#elif defined(__aarch64__)

enum { CHAINS = 16 };
#define EACH_CHAIN(X)                                                                              \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)
#define REGISTERS                                                                                  \
    "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v20", "v21",      \
        "v22", "v23", "v24", "v25"

#define CLEAR(i) "movi v" #i ".16b, #0\n\t"

#define PEAK_LOOP(name, isa, instruction)                                                          \
    __attribute__((target(isa))) static void name(uint64_t n_turns) {                              \
        __asm__ volatile(EACH_CHAIN(CLEAR) CLEAR(24)                                               \
                             CLEAR(25) ".balign 32\n\t"                                            \
                                       "1:\n\t" EACH_CHAIN(instruction) "subs %0, %0, #1\n\t"      \
                                                                        "b.ne 1b"                  \
                         : "+r"(n_turns)                                                           \
                         :                                                                         \
                         : "cc", REGISTERS);                                                       \
    }

#define DOT_MLAL(i) "smlal v" #i ".8h, v24.8b, v25.8b\n\t"
#define DOT_DOT(i)  "sdot v" #i ".4s, v24.16b, v25.16b\n\t"
#define DOT_MMLA(i) "smmla v" #i ".4s, v24.16b, v25.16b\n\t"
#define FMA_128(i)  "fmla v" #i ".4s, v24.4s, v25.4s\n\t"

PEAK_LOOP(neon_int8, "arch=armv8-a", DOT_MLAL)
PEAK_LOOP(neon_dotprod_int8, "arch=armv8.2-a+dotprod", DOT_DOT)
PEAK_LOOP(neon_i8mm_int8, "arch=armv8.2-a+i8mm", DOT_MMLA)
PEAK_LOOP(neon_float, "arch=armv8-a", FMA_128)

#endif

/* ---- the table ------------------------------------------------------------------------------- */

static const struct {
    const char *kernels;
    peak_loop loops[LL_N_ARITHMETICS]; /* by ll_arithmetic */
} peaks[] = {
#if defined(__x86_64__)
    {"avx512_amd", {{avx512_int8, CHAINS * 64}, {avx512_float, CHAINS * 16}}},
    {"avx512",     {{avx512_int8, CHAINS * 64}, {avx512_float, CHAINS * 16}}},
    {"avx2_vnni",  {{avx2_vnni_int8, CHAINS * 32}, {avx2_float, CHAINS * 8}}},
    {"avx2",       {{avx2_int8, CHAINS * 32}, {avx2_float, CHAINS * 8}}     },
#elif defined(__aarch64__)
    {"neon_i8mm", {{neon_i8mm_int8, CHAINS * 32}, {neon_float, CHAINS * 4}}},
    {"neon_dotprod", {{neon_dotprod_int8, CHAINS * 16}, {neon_float, CHAINS * 4}}},
    {"neon", {{neon_int8, CHAINS * 8}, {neon_float, CHAINS * 4}}},
#endif
    {"scalar",     {{portable_int8, BYTES}, {portable_float, LANES}}        },
};

peak_loop peak_find(const char *kernels, ll_arithmetic arithmetic) {
    size_t last = sizeof peaks / sizeof peaks[0] - 1, i = 0;
    while (i < last && strcmp(peaks[i].kernels, kernels) != 0) i++;
    return peaks[i].loops[arithmetic];
}
