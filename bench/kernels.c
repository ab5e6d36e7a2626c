/* kernels: a microbenchmark of the matrix kernels, one thread.
 *
 *   kernels [quant …] [-k K] [-n rows] [-s]
 *
 * For every quant and every kernels struct this processor has: one column over weights larger than
 * the caches (GB/s, and the share of the measured read rate), then 4 and 512 columns (GMAC/s, and
 * the share of the multiply-add peak measured in the same run, where the processor has AVX2). Times
 * are the thread's own, the best of several rounds; the kernels take turns within a round. -s
 * includes the scalar kernels.
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/kernels.h"

enum {
    ROUNDS = 9,
    MAX_KERNELS = 8,
    TASK_ROWS = 64, /* rows of one call, as a device hands them out */
    STREAM_BYTES = 256 * 1024 * 1024,
};

typedef struct bench {
    quant q;
    size_t k, n_rows, n_copies; /* n_copies matrices of [n_rows, k] lie behind each other */
    size_t row_bytes;
    uint8_t *rows;
    acts a;
    float *y;
    void *scratch;
} bench;

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint32_t random_bits(void) {
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

static double best(const double *times) {
    double t = times[0];
    for (int r = 1; r < ROUNDS; r++) t = times[r] < t ? times[r] : t;
    return t;
}

static void *allocate(size_t n_bytes) {
    void *memory = aligned_alloc(64, (n_bytes + 63) / 64 * 64);
    if (!memory) {
        fprintf(stderr, "kernels: no memory for %zu bytes\n", n_bytes);
        exit(1);
    }
    memset(memory, 0, n_bytes);
    return memory;
}

/* ---- the machine --------------------------------------------------------------------------- */

static double read_rate(const uint8_t *memory, size_t n_bytes) {
    double times[ROUNDS];
    for (int r = 0; r < ROUNDS; r++) {
        double start = seconds();
        uint64_t sums[8] = {0};
        for (size_t i = 0; i + 64 <= n_bytes; i += 64) {
            __builtin_prefetch(memory + i + 4096);
            for (size_t j = 0; j < 8; j++) {
                uint64_t x;
                memcpy(&x, memory + i + 8 * j, sizeof x);
                sums[j] += x;
            }
        }
        for (int j = 0; j < 8; j++) __asm__ volatile("" : : "r"(sums[j]));
        times[r] = seconds() - start;
    }
    return (double)n_bytes / best(times);
}

/* vpmaddubsw alone, eight independent ones a step: multiply-adds per second. */
static double multiply_peak(void) {
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx2")) return NAN;
    double times[ROUNDS];
    const long steps = 10000000;
    for (int r = 0; r < ROUNDS; r++) {
        double start = seconds();
        for (long i = 0; i < steps; i++) {
            __asm__ volatile(
                "vpmaddubsw %%ymm8, %%ymm8, %%ymm0\n vpmaddubsw %%ymm8, %%ymm8, %%ymm1\n"
                "vpmaddubsw %%ymm8, %%ymm8, %%ymm2\n vpmaddubsw %%ymm8, %%ymm8, %%ymm3\n"
                "vpmaddubsw %%ymm8, %%ymm8, %%ymm4\n vpmaddubsw %%ymm8, %%ymm8, %%ymm5\n"
                "vpmaddubsw %%ymm8, %%ymm8, %%ymm6\n vpmaddubsw %%ymm8, %%ymm8, %%ymm7\n"
                :
                :
                : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7");
        }
        times[r] = seconds() - start;
    }
    return (double)steps * 8 * 32 / best(times);
#else
    return NAN;
#endif
}

/* ---- one kernel ---------------------------------------------------------------------------- */

static void run(const bench *b, matmul_kernel *kernel, size_t n_copies, size_t n_cols) {
    for (size_t m = 0; m < n_copies; m++) {
        const uint8_t *rows = b->rows + m * b->n_rows * b->row_bytes;
        for (size_t r = 0; r < b->n_rows; r += TASK_ROWS) {
            size_t n = b->n_rows - r < TASK_ROWS ? b->n_rows - r : TASK_ROWS;
            kernel(&(product){.rows = rows + r * b->row_bytes,
                              .row_bytes = b->row_bytes,
                              .n_rows = n,
                              .a = &b->a,
                              .n_cols = n_cols,
                              .y = b->y + r,
                              .y_stride = b->n_rows,
                              .scratch = b->scratch});
        }
    }
}

static void fill(bench *b) {
    size_t n_bytes = b->n_rows * b->row_bytes;
    for (size_t i = 0; i < n_bytes; i++) b->rows[i] = (uint8_t)(random_bits() & 0x3b);
    for (size_t m = 1; m < b->n_copies; m++) memcpy(b->rows + m * n_bytes, b->rows, n_bytes);
    float *x = allocate(b->k * sizeof *x);
    for (size_t c = 0; c < b->a.n_cols; c++) {
        for (size_t i = 0; i < b->k; i++) x[i] = (float)(int32_t)random_bits() * 0x1p-31f;
        acts_quantize(&b->a, c, x);
    }
    free(x);
}

static void measure(bench *b, const kernels *list[], size_t n_kernels, size_t n_cols, double read,
                    double peak) {
    size_t n_copies = n_cols == 1 ? b->n_copies : 1;
    double times[MAX_KERNELS][ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < n_kernels; i++) {
            double start = seconds();
            run(b, list[i]->matmul[b->q], n_copies, n_cols);
            times[i][round] = seconds() - start;
        }
    }
    double n_bytes = (double)(n_copies * b->n_rows * b->row_bytes);
    double n_macs = (double)(n_copies * b->n_rows * b->k * n_cols);
    for (size_t i = 0; i < n_kernels; i++) {
        double t = best(times[i]);
        printf("%-7s %-7s %4zu columns  %6.2f GB/s  %7.2f GMAC/s", quant_table[b->q].name,
               list[i]->name, n_cols, n_bytes / t * 1e-9, n_macs / t * 1e-9);
        if (n_cols == 1) printf("  %3.0f %% of read", 100 * n_bytes / t / read);
        if (n_cols > 1 && !isnan(peak)) printf("  %3.0f %% of peak", 100 * n_macs / t / peak);
        printf("\n");
    }
}

static void bench_quant(quant q, size_t k, size_t n_rows, bool with_scalar, double read,
                        double peak) {
    static const size_t columns[] = {1, 4, 512};
    const kernels *list[MAX_KERNELS];
    size_t n_kernels = 0;
    for (const kernels *const *i = kernels_list; *i && n_kernels < MAX_KERNELS; i++) {
        bool is_scalar = *i == &kernels_scalar;
        if ((*i)->matmul[q] && (*i)->is_available() && (with_scalar || !is_scalar)) {
            list[n_kernels++] = *i;
        }
    }
    const quant_traits *t = &quant_table[q];
    bench b = {.q = q, .k = k / t->block_dim * t->block_dim, .n_rows = n_rows};
    b.row_bytes = quant_row_bytes(t, b.k);
    b.n_copies = STREAM_BYTES / (n_rows * b.row_bytes) + 1;
    b.rows = allocate(b.n_copies * n_rows * b.row_bytes + 64);
    void *memory = allocate(acts_bytes(t->acts, b.k, 512));
    acts_place(&b.a, t->acts, b.k, 512, memory);
    b.y = allocate(512 * n_rows * sizeof(float));
    b.scratch = allocate(KERNELS_SCRATCH_BYTES);
    fill(&b);
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
        measure(&b, list, n_kernels, columns[i], read, peak);
    }
    free(b.rows);
    free(memory);
    free(b.y);
    free(b.scratch);
}

int main(int argc, char **argv) {
    size_t k = 1536, n_rows = 576;
    bool wanted[QUANT_COUNT] = {false}, any = false, with_scalar = false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-k") && i + 1 < argc) {
            k = strtoul(argv[++i], NULL, 10);
        } else if (!strcmp(argv[i], "-n") && i + 1 < argc) {
            n_rows = strtoul(argv[++i], NULL, 10);
        } else if (!strcmp(argv[i], "-s")) {
            with_scalar = true;
        } else {
            for (int q = 0; q < QUANT_COUNT; q++) {
                if (!strcmp(quant_table[q].name, argv[i])) wanted[q] = any = true;
            }
        }
    }
    uint8_t *memory = allocate(STREAM_BYTES);
    double read = read_rate(memory, STREAM_BYTES), peak = multiply_peak();
    free(memory);
    printf("read %.1f GB/s, multiply-add peak %.0f GMAC/s, K = %zu, %zu rows\n", read * 1e-9,
           peak * 1e-9, k, n_rows);
    for (int q = 0; q < QUANT_COUNT; q++) {
        if (!any || wanted[q]) bench_quant((quant)q, k, n_rows, with_scalar, read, peak);
    }
    return 0;
}
