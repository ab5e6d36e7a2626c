/* scalar: the kernels that are the truth itself, for processors without a faster set and for tests
 * to hold the others against. Only loops over the functions of format/ and base/exact.
 */
#include <math.h>
#include <string.h>

#include "base/exact.h"
#include "format/quant_blocks.h"
#include "kernels/kernels.h"

static bool is_available(void) { return true; }

static void matmul(quant q, const product *p) {
    for (size_t r = 0; r < p->n_rows; r++) {
        const uint8_t *row = p->rows + r * p->row_bytes;
        for (size_t c = 0; c < p->n_cols; c++) {
            p->y[c * p->y_stride + r] = quant_table[q].dot(row, p->a, p->col0 + c);
        }
    }
}

#define X(name, stem, ...)                                                                         \
    static void matmul_##stem(const product *p) { matmul(QUANT_##name, p); }
QUANTS(X)
#undef X

static void add(const float *x, float *y, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = x[i] + y[i];
}

static void silu_mul(const float *gate, const float *up, float *y, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = exact_silu(gate[i]) * up[i];
}

static void gelu_mul(const float *gate, const float *up, float *y, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = exact_gelu(gate[i]) * up[i];
}

static void to_f16(const float *x, uint16_t *y, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = exact_f32_to_f16(x[i]);
}

static float score(const attend_chunk *chunk, const float *q, size_t j) {
    float s = 0;
    for (size_t d = 0; d < chunk->head_dim; d++) {
        s = fmaf(q[d], kv_key(chunk->k_type, chunk->k, chunk->head_dim, j, d), s);
    }
    return s;
}

static void attend_row(const attend_chunk *chunk, const float *q, float scale, size_t first,
                       size_t last, attend_state *state) {
    float s[KERNELS_CHUNK];
    float m = -INFINITY;
    for (size_t j = first; j < last; j++) {
        s[j] = score(chunk, q, j) * scale;
        m = s[j] > m ? s[j] : m;
    }
    float lanes[16] = {0};
    for (size_t d = 0; d < chunk->head_dim; d++) state->o[d] = 0;
    for (size_t j = first; j < last; j++) {
        float p = exact_exp(s[j] - m);
        lanes[j % 16] += p;
        for (size_t d = 0; d < chunk->head_dim; d++) {
            float v = kv_value(chunk->v_type, chunk->v, chunk->head_dim, j, d);
            state->o[d] = fmaf(p, v, state->o[d]);
        }
    }
    state->m = m;
    state->l = exact_tree16(lanes);
}

static void attend(const attend_chunk *chunk, const float *q, size_t q_stride, size_t n_rows,
                   float scale, const uint8_t *first, const uint8_t *last, attend_state *state,
                   void *scratch) {
    (void)scratch;
    for (size_t r = 0; r < n_rows; r++) {
        attend_row(chunk, q + r * q_stride, scale, first[r], last[r], &state[r]);
    }
}

static void attend_merge(attend_state *into, const attend_state *from, size_t head_dim) {
    float m = from->m > into->m ? from->m : into->m;
    float a = exact_exp(into->m - m);
    float b = exact_exp(from->m - m);
    into->m = m;
    into->l = fmaf(from->l, b, into->l * a);
    for (size_t d = 0; d < head_dim; d++) into->o[d] = fmaf(from->o[d], b, into->o[d] * a);
}

static size_t matmul_scratch(quant q, size_t n, size_t n_rows, size_t n_cols) {
    (void)q, (void)n, (void)n_rows, (void)n_cols;
    return 0;
}

static size_t attend_scratch(size_t head_dim, size_t n_rows) {
    (void)head_dim, (void)n_rows;
    return 0;
}

/* ---- peaks: what the compiler makes of loops like these ---------------------------------------
 */

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

#define X(name, stem, ...) [QUANT_##name] = matmul_##stem,
const kernels kernels_scalar = {
    .name = "scalar",
    .is_available = is_available,
    .task_macs = 16 << 20,
    .matmul = {QUANTS(X)},
    .quantize = acts_quantize,
    .rms_norm = exact_rms_norm,
    .add = add,
    .silu_mul = silu_mul,
    .gelu_mul = gelu_mul,
    .to_f16 = to_f16,
    .largest = exact_largest,
    .sum_weights = exact_sum_weights,
    .attend = attend,
    .attend_merge = attend_merge,
    .matmul_scratch = matmul_scratch,
    .attend_scratch = attend_scratch,
    .peaks = {{portable_int8, BYTES}, {portable_float, LANES}},
};
#undef X
