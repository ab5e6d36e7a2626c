/* kernels: the hot loops of one instruction set as a struct, and the ordered list of them.
 *
 * Kernels know quants, activations and plain arrays; never a model. Every function returns the
 * bits of the scalar truth in format/ and base/exact for all shapes it accepts. The functions of
 * one struct may be called from many threads at once; scratch belongs to the calling thread.
 */
#ifndef LL_KERNELS_KERNELS_H
#define LL_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/acts.h"
#include "format/kv.h"
#include "format/quant.h"
#include "kernels/peak.h"

enum {
    KERNELS_SCRATCH_BYTES = 512 * 1024, /* per thread, 64-byte aligned, for unpacked panels */
    KERNELS_CHUNK = KV_CHUNK,           /* positions of one attention chunk = one KV block */
};

/* A matrix product: y[c * y_stride + r] = dot(row r, column col0 + c) for every row r and every
 * c < n_cols. Where there is a dot of no values, 0 is written. */
typedef struct product {
    const uint8_t
        *rows; /* the first of n_rows, at an even address, each row_bytes behind the last */
    size_t row_bytes, n_rows;
    const acts *a; /* the columns, at any address that acts_place gives them */
    size_t col0, n_cols;
    float *y; /* [n_cols][y_stride] */
    size_t y_stride;
    void *scratch; /* KERNELS_SCRATCH_BYTES of the calling thread alone, 64-byte aligned */
} product;

typedef void matmul_kernel(const product *p);

/* One chunk of keys and values of one KV head, at most KERNELS_CHUNK positions, as format/kv.h lays
 * their types out. */
typedef struct attend_chunk {
    const void *k;
    const void *v;
    size_t head_dim; /* a multiple of 8 */
    kv_type k_type, v_type;
    const void *next_k, *next_v; /* of the chunk that the caller will ask for next, to be fetched
                                  * meanwhile and never read; NULL: none */
} attend_chunk;

/* The running result of one query row: maximum, sum of exponentials, weighted values. */
typedef struct attend_state {
    float m;
    float l;
    float *o; /* [head_dim] */
} attend_state;

typedef struct kernels {
    const char *name;
    bool (*is_available)(void);

    /* One for each quant; NULL where this instruction set has none (see kernels_matmul). */
    matmul_kernel *matmul[QUANT_COUNT];

    /* acts_quantize of format/acts.h */
    void (*quantize)(acts *a, size_t col, const float *x);

    /* exact_rms_norm of base/exact.h */
    void (*rms_norm)(const float *x, const float *weight, float eps, float *y, size_t n);

    /* y[i] = x[i] + y[i] */
    void (*add)(const float *x, float *y, size_t n);

    /* y[i] = exact_silu(gate[i]) * up[i];  exact_gelu likewise. y may be gate. */
    void (*silu_mul)(const float *gate, const float *up, float *y, size_t n);
    void (*gelu_mul)(const float *gate, const float *up, float *y, size_t n);

    /* f32 -> f16, round to nearest even */
    void (*to_f16)(const float *x, uint16_t *y, size_t n);

    /* exact_largest and exact_sum_weights of base/exact.h */
    float (*largest)(const float *x, size_t n);
    uint64_t (*sum_weights)(const float *x, size_t n, float best, double scale);

    /* Attention of n_rows query rows over one chunk. Row r sees the positions [first[r], last[r])
     * of the chunk, a range that is never empty. For each row, with j over its visible positions
     * in ascending order and lanes j mod 16, k[d][j] and v[j][d] being kv_key and kv_value:
     *   s_j = (fmaf chain over d ascending of q[d] * k[d][j], from 0) * scale
     *   m = max s_j;  p_j = exact_exp(s_j - m);  l = tree16 of lane sums of p_j
     *   o[d] = fmaf(p_j, v[j][d], o[d]) from 0
     * q is [n_rows] rows q_stride floats apart; writes state[r] (m, l, and o's head_dim values). */
    void (*attend)(const attend_chunk *chunk, const float *q, size_t q_stride, size_t n_rows,
                   float scale, const uint8_t *first, const uint8_t *last, attend_state *state,
                   void *scratch);

    /* into = merge(into, from), both non-empty, from being the later chunk:
     *   m' = max(m, m_c), a = exp(m - m'), b = exp(m_c - m'), l = fmaf(l_c, b, l * a),
     *   o[d] = fmaf(o_c[d], b, o[d] * a) */
    void (*attend_merge)(attend_state *into, const attend_state *from, size_t head_dim);

    /* Scratch that is touched, from its beginning on, at most: by products of up to n_rows rows of
     * n values with up to n_cols columns (where n_rows is a multiple of 8, theirs are too), and by
     * attention of up to n_rows rows. */
    size_t (*matmul_scratch)(quant q, size_t n, size_t n_rows, size_t n_cols);
    size_t (*attend_scratch)(size_t head_dim, size_t n_rows);

    /* Multiply-adds that take some milliseconds: no task keeps a thread longer from a cancel. */
    size_t task_macs;

    /* What bounds all of these: the loops of peak.h, with int8 and with floats. */
    peak_loop peaks[N_PEAKS];
} kernels;

/* The sets that are compiled for this architecture, the best first. A set is a folder and a line.
 */
#if defined(__x86_64__)
#define KERNELS_LIST(X)                                                                            \
    X(avx512_amd) /* AMD's with AVX-512 */                                                         \
    X(avx512)     /* others with it */                                                             \
    X(avx2_vnni)  /* with AVX-VNNI and no AVX-512 */                                               \
    X(avx2)       /* all others of the last ten years */                                           \
    X(scalar)
#elif defined(__aarch64__)
#define KERNELS_LIST(X)                                                                            \
    X(neon_i8mm)    /* SMMLA */                                                                    \
    X(neon_dotprod) /* SDOT */                                                                     \
    X(neon)         /* all others */                                                               \
    X(scalar)
#else
#define KERNELS_LIST(X) X(scalar)
#endif

#define X(name) extern const kernels kernels_##name;
KERNELS_LIST(X)
#undef X

/* Declares what an instruction set has beside its products, under names that begin with `isa`. */
#define KERNELS_DECLARE(isa)                                                                       \
    void isa##_quantize(acts *a, size_t col, const float *x);                                      \
    void isa##_rms_norm(const float *x, const float *weight, float eps, float *y, size_t n);       \
    void isa##_add(const float *x, float *y, size_t n);                                            \
    void isa##_silu_mul(const float *gate, const float *up, float *y, size_t n);                   \
    void isa##_gelu_mul(const float *gate, const float *up, float *y, size_t n);                   \
    void isa##_to_f16(const float *x, uint16_t *y, size_t n);                                      \
    float isa##_largest(const float *x, size_t n);                                                 \
    uint64_t isa##_sum_weights(const float *x, size_t n, float best, double scale);                \
    void isa##_attend(const attend_chunk *chunk, const float *q, size_t q_stride, size_t n_rows,   \
                      float scale, const uint8_t *first, const uint8_t *last, attend_state *state, \
                      void *scratch);                                                              \
    void isa##_attend_merge(attend_state *into, const attend_state *from, size_t head_dim);        \
    size_t isa##_attend_scratch(size_t head_dim, size_t n_rows);                                   \
    size_t isa##_matmul_scratch(quant q, size_t n, size_t n_rows, size_t n_cols)

/* The rows of those over vectors in a struct of kernels. */
#define KERNELS_VECTORS(isa)                                                                       \
    .quantize = isa##_quantize, .rms_norm = isa##_rms_norm, .add = isa##_add,                      \
    .silu_mul = isa##_silu_mul, .gelu_mul = isa##_gelu_mul, .to_f16 = isa##_to_f16,                \
    .largest = isa##_largest, .sum_weights = isa##_sum_weights

/* The kernels of that name, or NULL where the name is unknown or the processor lacks the
 * instructions. A NULL name asks for the best available. */
const kernels *kernels_find(const char *name);

/* k's kernel for a quant, the scalar one where k has none. */
matmul_kernel *kernels_matmul(const kernels *k, quant q);

/* All of KERNELS_LIST, NULL-terminated; also those the processor lacks. */
extern const kernels *const kernels_list[];

#endif
