/* acts: the size and layout of activations, and their rounding.
 *
 * The arrays of one `acts` lie behind each other, each 64-byte aligned; one function computes
 * their offsets, so the size and the layout cannot disagree.
 */
#include "format/acts.h"

#include <math.h>
#include <string.h>

#include "base/exact.h"

enum { ALIGNMENT = 64, SUM_DIM = 16 };

typedef struct layout {
    size_t d, sums, end; /* byte offsets; the values are at 0 */
} layout;

static size_t align_up(size_t n_bytes) { return (n_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static layout layout_of(acts_kind kind, size_t n, size_t n_cols) {
    static const struct {
        size_t value_bytes, block_dim, sum_dim, sum_bytes; /* block_dim 0: values alone */
    } sizes[ACTS_KIND_COUNT] = {
        [ACTS_F32] = {sizeof(float),    0,   0,       0              },
        [ACTS_BF16] = {sizeof(uint16_t), 0,   0,       0              },
        [ACTS_Q8_32] = {sizeof(int8_t),   32,  32,      sizeof(float)  },
        [ACTS_Q8_256] = {sizeof(int8_t),   256, SUM_DIM, sizeof(int16_t)},
    };
    layout at = {0, 0, align_up(n * n_cols * sizes[kind].value_bytes)};
    if (!sizes[kind].block_dim) return at;
    at.d = at.end;
    at.sums = at.d + align_up(n / sizes[kind].block_dim * n_cols * sizeof(float));
    at.end = at.sums + align_up(n / sizes[kind].sum_dim * n_cols * sizes[kind].sum_bytes);
    return at;
}

size_t acts_bytes(acts_kind kind, size_t n, size_t n_cols) {
    return layout_of(kind, n, n_cols).end;
}

void acts_place(acts *a, acts_kind kind, size_t n, size_t n_cols, void *memory) {
    layout at = layout_of(kind, n, n_cols);
    uint8_t *base = memory;
    *a = (acts){.kind = kind, .n = n, .n_cols = n_cols};
    switch (kind) {
    case ACTS_F32:
        a->f32 = memory;
        break;
    case ACTS_BF16:
        a->bf16 = memory;
        break;
    case ACTS_Q8_32:
        a->q = memory;
        a->d = (float *)(void *)(base + at.d);
        a->sum = (float *)(void *)(base + at.sums);
        break;
    case ACTS_Q8_256:
        a->q = memory;
        a->d = (float *)(void *)(base + at.d);
        a->sums = (int16_t *)(void *)(base + at.sums);
        break;
    case ACTS_KIND_COUNT:
        break;
    }
}

/* The largest magnitude by bit pattern, so that anything not finite wins over every number. */
static float largest_magnitude(const float *x, size_t n) {
    uint32_t largest = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= UINT32_C(0x7fffffff);
        largest = bits > largest ? bits : largest;
    }
    float amax;
    memcpy(&amax, &largest, sizeof amax);
    return amax;
}

static float quantize_block(const float *x, size_t n, int8_t *q) {
    float amax = largest_magnitude(x, n);
    if (!isfinite(amax) || amax < 1e-30f) {
        memset(q, 0, n);
        return isfinite(amax) ? 0 : NAN;
    }
    float inverse = 127.0f / amax;
    for (size_t i = 0; i < n; i++) q[i] = (int8_t)rintf(x[i] * inverse);
    return amax / 127.0f;
}

static int32_t sum_of(const int8_t *q, size_t n) {
    int32_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += q[i];
    return sum;
}

static void quantize_32(acts *a, size_t col, const float *x) {
    for (size_t b = 0; b < a->n / 32; b++) {
        size_t block = acts_block(a, b, col);
        int8_t *q = a->q + block * 32;
        a->d[block] = quantize_block(x + b * 32, 32, q);
        a->sum[block] = (float)sum_of(q, 32);
    }
}

static void quantize_256(acts *a, size_t col, const float *x) {
    for (size_t b = 0; b < a->n / 256; b++) {
        size_t block = acts_block(a, b, col), n_sums = 256 / SUM_DIM;
        int8_t *q = a->q + block * 256;
        a->d[block] = quantize_block(x + b * 256, 256, q);
        for (size_t s = 0; s < n_sums; s++)
            a->sums[block * n_sums + s] = (int16_t)sum_of(q + s * SUM_DIM, SUM_DIM);
    }
}

void acts_quantize(acts *a, size_t col, const float *x) {
    switch (a->kind) {
    case ACTS_F32:
        memcpy(a->f32 + col * a->n, x, a->n * sizeof *x);
        break;
    case ACTS_BF16:
        for (size_t i = 0; i < a->n; i++) a->bf16[col * a->n + i] = exact_f32_to_bf16(x[i]);
        break;
    case ACTS_Q8_32:
        quantize_32(a, col, x);
        break;
    case ACTS_Q8_256:
        quantize_256(a, col, x);
        break;
    case ACTS_KIND_COUNT:
        break;
    }
}
