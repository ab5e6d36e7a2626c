/* kernels_equal: every kernel this processor can run returns the scalar kernels' bits.
 *
 *     kernels_equal [NAME …]    compares the named kernels, or all that are available
 *     kernels_equal --best      names those that a model would run on
 *
 * Everything is held against the scalar kernels by memcmp: matmul of every quant, the vector
 * functions, attention. It needs nothing but the C library, so it runs where Python does not, under
 * an emulator for one. Prints each difference and closes with "N passed, N failed"; exit status 1
 * where something differs, 2 where a named set of kernels is unknown or not available.
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/exact.h"
#include "kernels/kernels.h"
#include "kernels_data.h"

enum { N_GUARD = 3 }; /* floats after each column of results, which must stay as they are */
static const float guard = -12345.5f;

static unsigned n_passed, n_failed;
static _Alignas(64) uint8_t scratch[KERNELS_SCRATCH_BYTES];

/* Counts one comparison; `what` names it. */
static void expect_equal(const kernels *k, const char *what, const void *expected, const void *got,
                         size_t n_bytes) {
    if (!memcmp(expected, got, n_bytes)) {
        n_passed++;
        return;
    }
    size_t at = 0;
    while (((const uint8_t *)expected)[at] == ((const uint8_t *)got)[at]) at++;
    printf("%s differs: %s, first at byte %zu of %zu\n", k->name, what, at, n_bytes);
    n_failed++;
}

/* Fills scratch; what a kernel leaves of the filling behind the bytes that it says to touch. */
static void fill_scratch(void) { memset(scratch, 0xa5, sizeof scratch); }

static void expect_untouched(const kernels *k, const char *what, size_t n_bytes) {
    const size_t n_left = n_bytes < sizeof scratch ? sizeof scratch - n_bytes : 0;
    const uint8_t *rest = scratch + sizeof scratch - n_left;
    if (n_bytes <= sizeof scratch &&
        (n_left == 0 || (rest[0] == 0xa5 && !memcmp(rest, rest + 1, n_left - 1)))) {
        n_passed++;
        return;
    }
    printf("%s: %s, more of scratch is touched than %zu bytes\n", k->name, what, n_bytes);
    n_failed++;
}

/* Fewer rows and columns touch no more of it, or "up to" would not hold. */
static void expect_monotone(const kernels *k, quant q, size_t n, size_t n_rows, size_t n_cols) {
    const size_t most = k->matmul_scratch(q, n, n_rows, n_cols);
    bool holds = most <= sizeof scratch;
    for (size_t r = 1; r <= n_rows; r++) {
        if (n_rows % 8 == 0 && r % 8 != 0) continue;
        for (size_t c = 1; c <= n_cols; c = c * 5 / 4 + 1) {
            if (k->matmul_scratch(q, n, r, c) > most) holds = false;
        }
    }
    if (holds) n_passed++;
    if (holds) return;
    printf("%s: scratch of %s, rows of %zu, is not monotone below %zu rows and %zu columns\n",
           k->name, quant_table[q].name, n, n_rows, n_cols);
    n_failed++;
}

/* ---- matmul -------------------------------------------------------------------------------- */

static const char *const data_names[DATA_KINDS] = {"plain", "ends", "tiny"};

typedef struct shape {
    size_t n_rows, n_units, col0, n_cols; /* a unit: 256 values of blocks, 64 of floats */
} shape;

/* 1 to 17 columns over awkward numbers of rows and blocks, then a panel, long rows, many rows. */
static const shape shapes[] = {
    {1,   1,  0, 1  },
    {3,   2,  1, 2  },
    {7,   1,  0, 3  },
    {8,   5,  0, 4  },
    {9,   3,  2, 5  },
    {17,  2,  0, 6  },
    {19,  1,  3, 7  },
    {33,  3,  0, 8  },
    {5,   9,  0, 9  },
    {6,   1,  0, 10 },
    {24,  1,  0, 11 },
    {11,  2,  0, 12 },
    {15,  2,  1, 13 },
    {4,   1,  0, 14 },
    {10,  1,  0, 15 },
    {2,   1,  0, 16 },
    {41,  1,  0, 17 },
    {21,  1,  0, 513},
    {2,   40, 0, 5  },
    {9,   96, 0, 9  },
    {530, 1,  0, 9  },
};

static void check_shape(const kernels *k, quant q, data_kind kind, shape s) {
    const quant_traits *traits = &quant_table[q];
    size_t n = s.n_units * 256;
    if (traits->block_dim == 1) n = s.n_units * 64 - s.n_rows % 5; /* tails */
    if (traits->block_dim == 32) n -= s.n_rows % 3 * 32;           /* no multiple of 256 */
    const size_t y_stride = s.n_rows + N_GUARD, row_bytes = quant_row_bytes(traits, n);
    const size_t n_values = s.n_cols * y_stride;
    uint8_t *rows = draw_rows(q, kind, s.n_rows, n);
    acts a = draw_acts(traits->acts, kind, n, s.col0 + s.n_cols);
    float *expected = allocate(n_values * sizeof *expected);
    float *got = allocate(n_values * sizeof *got);
    for (size_t i = 0; i < n_values; i++) expected[i] = got[i] = guard;
    product p = {.rows = rows,
                 .row_bytes = row_bytes,
                 .n_rows = s.n_rows,
                 .a = &a,
                 .col0 = s.col0,
                 .n_cols = s.n_cols,
                 .y = expected,
                 .y_stride = y_stride,
                 .scratch = scratch};
    kernels_scalar.matmul[q](&p);
    fill_scratch();
    p.y = got;
    k->matmul[q](&p);
    char what[96];
    snprintf(what, sizeof what, "%s, %s, %zu rows of %zu, %zu columns from %zu", traits->name,
             data_names[kind], s.n_rows, n, s.n_cols, s.col0);
    for (size_t i = 0; i < n_values; i++) {
        if (!isfinite(expected[i])) fail_with(what); /* the promise covers finite values */
    }
    expect_equal(k, what, expected, got, n_values * sizeof *got);
    expect_untouched(k, what, k->matmul_scratch(q, n, s.n_rows, s.n_cols));
    expect_monotone(k, q, n, s.n_rows, s.n_cols);
    release_rows(rows, s.n_rows * row_bytes);
    free(a.q);
    free(expected);
    free(got);
}

static void check_matmul(const kernels *k) {
    for (quant q = 0; q < QUANT_COUNT; q++) {
        if (!k->matmul[q]) continue;
        for (data_kind kind = 0; kind < DATA_KINDS; kind++) {
            for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
                if (kind != PLAIN && shapes[i].n_rows * shapes[i].n_cols > 2000) continue;
                check_shape(k, q, kind, shapes[i]);
            }
        }
    }
}

/* ---- vectors ------------------------------------------------------------------------------- */

static const size_t sizes[] = {1,  2,  7,  8,   9,   15,  16,   17,  31,
                               63, 64, 65, 127, 128, 576, 1000, 2053};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

/* Awkward columns for rounding: large, around the threshold of zero blocks, subnormal, zeros, ties,
 * not finite. */
static void draw_awkward(size_t c, float *x, size_t n) {
    static const float scales[] = {1,     1e30f,   1e-30f, 3.5e-31f, 1e-38f, 0,
                                   -0.0f, 3.4e38f, 127,    1,        1};
    for (size_t i = 0; i < n; i++) x[i] = draw_unit() * scales[c];
    if (c == 8) {
        for (size_t i = 0; i < n; i++) x[i] = i % 32 ? rintf(x[i] / 4) + 0.5f : 127;
    }
    if (c == 9) x[5] = INFINITY;
    if (c == 10) x[n - 1] = -INFINITY;
}

static void check_quantize(const kernels *k) {
    enum { N_COLS = 11 };
    static const char *const names[ACTS_KIND_COUNT] = {"quantize F32", "quantize BF16",
                                                       "quantize Q8_32", "quantize Q8_256"};
    for (acts_kind kind = 0; kind < ACTS_KIND_COUNT; kind++) {
        for (size_t n = 256; n <= 768; n += 512) {
            const size_t n_bytes = acts_bytes(kind, n, N_COLS);
            void *memory[2] = {allocate(n_bytes), allocate(n_bytes)};
            acts expected, got;
            acts_place(&expected, kind, n, N_COLS, memory[0]);
            acts_place(&got, kind, n, N_COLS, memory[1]);
            for (size_t c = 0; c < N_COLS; c++) {
                float x[768];
                draw_awkward(c, x, n);
                acts_quantize(&expected, c, x);
                k->quantize(&got, c, x);
            }
            expect_equal(k, names[kind], memory[0], memory[1], n_bytes);
            free(memory[0]);
            free(memory[1]);
        }
    }
}

static void check_rms_norm(const kernels *k) {
    static const float scales[] = {1, 1e-12f, 1e12f};
    for (size_t i = 0; i < N_SIZES * 6; i++) {
        const size_t n = sizes[i / 6];
        float *x = draw_vector(n, scales[i % 3]), *expected = draw_vector(n, 1);
        float *weight = i / 3 % 2 ? draw_vector(n, 1) : NULL;
        exact_rms_norm(x, weight, 1e-6f, expected, n);
        k->rms_norm(x, weight, 1e-6f, x, n); /* in place, as the contract allows */
        expect_equal(k, "rms_norm", expected, x, n * sizeof *x);
        free(x);
        free(expected);
        free(weight);
    }
}

/* A function of two vectors into a third, which may be the first; `add` adds to its second. */
typedef void gate_function(const float *gate, const float *up, float *y, size_t n);

static void check_gate(const kernels *k, const char *what, gate_function *scalar,
                       gate_function *kernel) {
    enum { N_SWEEP = 8192 };
    static const float edges[] = {0,      -0.0f,   -87,    87,   -87.0001f,
                                  1e-40f, -1e-40f, 1e-20f, 3e4f, -3e4f};
    for (size_t i = 0; i <= N_SIZES; i++) {
        const size_t n = i < N_SIZES ? sizes[i] : N_SWEEP;
        float *x = draw_vector(n, 120), *up = draw_vector(n, 1), *expected = draw_vector(n, 1);
        for (size_t j = 0; j < n && j < sizeof edges / sizeof *edges; j++) x[n - 1 - j] = edges[j];
        scalar(x, up, expected, n);
        kernel(x, up, x, n);
        expect_equal(k, what, expected, x, n * sizeof *x);
        free(x);
        free(up);
        free(expected);
    }
}

static void check_gates(const kernels *k) {
    check_gate(k, "silu_mul", kernels_scalar.silu_mul, k->silu_mul);
    check_gate(k, "gelu_mul", kernels_scalar.gelu_mul, k->gelu_mul);
}

static void check_add(const kernels *k) {
    for (size_t i = 0; i < N_SIZES; i++) {
        const size_t n = sizes[i];
        float *x = draw_vector(n, 1), *expected = draw_vector(n, 1e-3f), *got = draw_vector(n, 1);
        memcpy(got, expected, n * sizeof *got);
        kernels_scalar.add(x, expected, n);
        k->add(x, got, n);
        expect_equal(k, "add", expected, got, n * sizeof *got);
        free(x);
        free(expected);
        free(got);
    }
}

/* All finite f16, the ties between neighbours, a float beside each tie, and random bits. */
static void check_to_f16(const kernels *k) {
    enum { N = 0x7c00 };
    static float x[N];
    static uint16_t expected[N], got[N];
    for (int round = 0; round < 5; round++) {
        for (uint16_t h = 0; h < N; h++) {
            float low = exact_f16_to_f32(h), tie = low + (exact_f16_to_f32(h + 1) - low) / 2;
            const float candidates[] = {low, tie, -tie, nextafterf(tie, 0), draw_scaled(-140, 120)};
            x[h] = h + 1 < N ? candidates[round] : 65520; /* rounds to infinity */
        }
        const size_t n = (size_t)(N - round);
        kernels_scalar.to_f16(x, expected, n);
        k->to_f16(x, got, n);
        expect_equal(k, "to_f16", expected, got, sizeof got);
    }
}

/* ---- attention ----------------------------------------------------------------------------- */

enum { MAX_ROWS = 70, MAX_HEAD = 256, Q_STRIDE = MAX_HEAD + 3 };

/* What a row sees of the chunk. */
typedef enum sight { FULL, DIAGONAL, WINDOW, ANY, FEW, ONE, SIGHTS } sight;
static const char *const sight_names[SIGHTS] = {"full", "diagonal", "window", "any", "few", "one"};

static void draw_range(sight how, size_t r, uint8_t *first, uint8_t *last) {
    const uint8_t at = (uint8_t)(r % KERNELS_CHUNK);
    const uint8_t any = (uint8_t)draw_below(KERNELS_CHUNK);
    const uint8_t any_end = (uint8_t)(any + 1 + draw_below(KERNELS_CHUNK - any));
    *first = how == WINDOW || how == ONE ? at : how == ANY ? any : 0;
    *last = how == DIAGONAL || how == ONE ? at + 1 : how == ANY ? any_end : how == FEW ? 3 : 64;
}

typedef struct attended {
    float m[MAX_ROWS], l[MAX_ROWS], o[MAX_ROWS][MAX_HEAD];
} attended;

static void attend(const kernels *k, const attend_chunk *chunk, const float *q, size_t n_rows,
                   const uint8_t *first, const uint8_t *last, attended *to) {
    attend_state states[MAX_ROWS];
    const float scale = 1 / sqrtf((float)chunk->k_dim);
    memset(to, 0, sizeof *to);
    for (size_t r = 0; r < n_rows; r++) states[r] = (attend_state){0, 0, to->o[r]};
    fill_scratch();
    k->attend(chunk, q, Q_STRIDE, n_rows, scale, first, last, states, scratch);
    expect_untouched(k, "attention", k->attend_scratch(chunk->k_dim, chunk->v_dim, n_rows));
    for (size_t r = 0; r < n_rows; r++) {
        to->m[r] = states[r].m;
        to->l[r] = states[r].l;
    }
}

/* A number of keys or values, and a scale where codes are one; what nobody sees may hold anything.
 */
static uint16_t draw_number(bool is_seen, float scale) {
    return is_seen ? exact_f32_to_f16(draw_unit() * scale) : 0x7e00;
}

static void draw_chunk(attend_chunk *chunk, const bool *is_seen, float scale, uint8_t *keys,
                       uint8_t *values) {
    const size_t n[2] = {chunk->k_dim, chunk->v_dim};
    uint16_t *numbers[2] = {(uint16_t *)(void *)keys, (uint16_t *)(void *)values};
    bool is_half[2] = {chunk->k_type == KV_F16, chunk->v_type == KV_F16};
    if (!is_half[0]) numbers[0] = kv_scales(chunk->k_type, keys, n[0]);
    if (!is_half[1]) numbers[1] = kv_scales(chunk->v_type, values, n[1]);
    for (size_t i = 0; i < n[0] * KERNELS_CHUNK; i++) keys[i] = (uint8_t)draw_below(256);
    for (size_t i = 0; i < n[1] * KERNELS_CHUNK; i++) values[i] = (uint8_t)draw_below(256);
    for (size_t j = 0; j < KERNELS_CHUNK; j++) {
        for (size_t d = 0; d < (is_half[0] ? n[0] : kv_n_blocks(n[0])); d++)
            numbers[0][d * KERNELS_CHUNK + j] =
                draw_number(is_seen[j], is_half[0] ? scale : scale / 127);
        size_t width = is_half[1] ? n[1] : kv_n_blocks(n[1]);
        for (size_t d = 0; d < width; d++)
            numbers[1][j * width + d] = draw_number(is_seen[j], is_half[1] ? 1 : 1.0f / 127);
    }
    chunk->k = keys;
    chunk->v = values;
}

static void check_attend_case(const kernels *k, sight how, size_t n_rows, size_t k_dim,
                              size_t v_dim, kv_type k_type, kv_type v_type) {
    enum { CHUNK_BYTES = MAX_HEAD * KERNELS_CHUNK * 2 }; /* of F16, the widest type */
    static _Alignas(64) uint8_t keys[CHUNK_BYTES], values[CHUNK_BYTES];
    static float q[MAX_ROWS * Q_STRIDE];
    static attended expected, got;
    uint8_t first[MAX_ROWS], last[MAX_ROWS];
    bool is_seen[KERNELS_CHUNK] = {false};
    for (size_t r = 0; r < n_rows; r++) {
        draw_range(how, r, &first[r], &last[r]);
        for (size_t j = first[r]; j < last[r]; j++) is_seen[j] = true;
    }
    for (size_t i = 0; i < n_rows * Q_STRIDE; i++) {
        const size_t row = i / Q_STRIDE;
        q[i] = draw_unit() * (n_rows == 3 ? 50.0f : 2.0f); /* exponentials that vanish */
        if (n_rows == 5 && row % 2) q[i] = 0;              /* scores of zero */
        if (n_rows == 2) q[i] = row ? 1e-44f : -1e-44f;    /* that underflow to either zero */
    }
    attend_chunk chunk = {.k_dim = k_dim, .v_dim = v_dim, .k_type = k_type, .v_type = v_type};
    draw_chunk(&chunk, is_seen, n_rows == 2 ? 0x1p-23f : 2, keys, values);
    if (n_rows % 2) /* fetched meanwhile and never read: nothing lies there */
        chunk.next_k = chunk.next_v = (const void *)(uintptr_t)64;
    attend(&kernels_scalar, &chunk, q, n_rows, first, last, &expected);
    attend(k, &chunk, q, n_rows, first, last, &got);
    char what[96];
    snprintf(what, sizeof what, "attend, %s, %zu rows, keys of %zu %s, values of %zu %s",
             sight_names[how], n_rows, k_dim, kv_names[k_type], v_dim, kv_names[v_type]);
    expect_equal(k, what, &expected, &got, sizeof got);
}

static void check_attend_types(const kernels *k, kv_type k_type, kv_type v_type) {
    static const size_t n_rows[] = {1, 2, 3, 4, 5, 8, 9, 31, 70};
    static const struct {
        size_t k, v;
    } dims[] = {
        {8,        8       },
        {24,       24      },
        {64,       64      },
        {72,       72      },
        {MAX_HEAD, MAX_HEAD},
        {24,       72      },
        {96,       40      },
    };
    for (sight how = 0; how < SIGHTS; how++) {
        for (size_t r = 0; r < sizeof n_rows / sizeof *n_rows; r++) {
            for (size_t h = 0; h < sizeof dims / sizeof *dims; h++) {
                if (n_rows[r] > 9 && dims[h].k > 128) continue;
                check_attend_case(k, how, n_rows[r], dims[h].k, dims[h].v, k_type, v_type);
            }
        }
    }
}

static void check_attend(const kernels *k) {
    for (kv_type k_type = 0; k_type < KV_TYPE_COUNT; k_type++) {
        for (kv_type v_type = 0; v_type < KV_TYPE_COUNT; v_type++)
            check_attend_types(k, k_type, v_type);
    }
}

static void check_attend_merge(const kernels *k) {
    static const float maxima[][2] = {
        {0.5f, 2   },
        {2,    0.5f},
        {1,    1   },
        {-90,  3   },
        {3,    -90 }
    };
    for (size_t i = 0; i < 5; i++) {
        for (size_t head_dim = 8; head_dim <= MAX_HEAD; head_dim += 56) {
            float *expected = draw_vector(head_dim + 2, 1), *got = draw_vector(head_dim + 2, 1);
            float *from_o = draw_vector(head_dim, 1);
            memcpy(got, expected, (head_dim + 2) * sizeof *got);
            const attend_state from = {maxima[i][1], 40.2f, from_o};
            attend_state into[2] = {
                {maxima[i][0], 1.7f, expected},
                {maxima[i][0], 1.7f, got     }
            };
            kernels_scalar.attend_merge(&into[0], &from, head_dim);
            k->attend_merge(&into[1], &from, head_dim);
            for (int s = 0; s < 2; s++) memcpy(into[s].o + head_dim, &into[s], 2 * sizeof(float));
            expect_equal(k, "attend_merge", expected, got, (head_dim + 2) * sizeof *got);
            free(expected);
            free(got);
            free(from_o);
        }
    }
}

/* ---- the checks ---------------------------------------------------------------------------- */

static void (*const checks[])(const kernels *) = {
    check_matmul, check_quantize, check_rms_norm, check_gates,
    check_add,    check_to_f16,   check_attend,   check_attend_merge,
};

static void check_all(const kernels *k) {
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        draw_from(i);
        checks[i](k);
    }
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "--best")) return puts(kernels_find(NULL)->name) < 0;
    for (int i = 1; i < argc; i++) {
        const kernels *k = kernels_find(argv[i]);
        if (!k) {
            printf("%s: unknown kernels, or not for this processor\n", argv[i]);
            return 2;
        }
        check_all(k);
    }
    for (const kernels *const *k = kernels_list; argc == 1 && *k; k++) {
        if (*k != &kernels_scalar && (*k)->is_available()) check_all(*k);
    }
    printf("%u passed, %u failed\n", n_passed, n_failed);
    return n_failed ? 1 : 0;
}
