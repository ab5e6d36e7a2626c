/* avx512_matmul_float: F32, F16 and BF16 weights.
 *
 * All three are one walk in steps of 16 lanes, one register and lane by lane one fmaf. A block of
 * F32 or F16 is one step; a block of BF16 is 32 values and two steps, the odd values and then the
 * even ones, so that pair p meets lane p mod 16 as in vdpbf16ps. What a row's last block lacks is
 * filled with -0 * 0, which leaves every lane as it is, also one that is -0.
 *
 * BF16 counts subnormals as zero on the way in and out. Denormals-are-zero does the former, and the
 * latter too, as a lane goes into the next step; the last step's lanes are cleared by hand.
 * (Flush-to-zero judges a result before it is rounded, which is not the same at the edge.)
 *
 * A tile is eight rows, which meet few columns straight from memory. For more columns a span of the
 * tile is widened to f32 once and stays in L1 while the columns, widened once per call, stream past
 * from L2, three at a time; lanes rest in scratch between spans.
 */
#include <assert.h>
#include <float.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/avx512/avx512_float.h"
#include "kernels/avx512/avx512_kernels.h"
#include "kernels/avx512/avx512_vec.h"

enum {
    TILE_ROWS = 8, /* 8 x 3 chains hide the latency of fmaf, and need 11 loads per 24 */
    TILE_COLS = 3,
    FEW_COLS = 16,     /* up to here weights are not stored again */
    FEW_TILE_COLS = 6, /* with half a tile */
    MOST_ROWS = 128,   /* whose lanes rest in scratch at the same time … */
    MOST_COLS = 36,    /* … for that many columns */
    SPAN_STEPS = 40,   /* of a tile: 20 KB */
    AHEAD_BYTES = 1024,
};

enum {
    TILE_FLOATS = SPAN_STEPS * TILE_ROWS * N_LANES,
    SCRATCH_FLOATS = KERNELS_SCRATCH_BYTES / (int)sizeof(float),
};

static_assert(TILE_FLOATS + (MOST_ROWS + 2 * SPAN_STEPS) * MOST_COLS * N_LANES <= SCRATCH_FLOATS,
              "a tile, the lanes and two spans of the columns fit scratch");

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* n in parts of at most `most`: the size of the largest when all are about equal. */
static size_t even_part(size_t n, size_t most) {
    const size_t n_parts = (n + most - 1) / most;
    return n_parts ? (n + n_parts - 1) / n_parts : 0;
}

/* ---- widening ------------------------------------------------------------------------------- */

static const float row_fill = -0.0f, col_fill = 0.0f;

/* Values [i, end) of the n at `values`, their steps `stride` floats apart. */
VEC_INLINE void widen(number k, const uint8_t *values, size_t i, size_t end, size_t n, float fill,
                      float *to, size_t stride) {
    const size_t whole = smaller(end, n - n % block_dim(k));
    for (; i < whole; i += block_dim(k)) {
        for (size_t s = 0; s < block_steps(k); s++, to += stride) {
            _mm512_storeu_ps(to, load_step(k, values + i * value_bytes(k), s));
        }
    }
    for (size_t s = 0; i < end && s < block_steps(k); s++, to += stride) {
        _mm512_storeu_ps(to, load_last(k, values + i * value_bytes(k), s, n - i, fill));
    }
}

/* ---- tiles ----------------------------------------------------------------------------------- */

/* Eight rows, `apart` rows from one to the next. */
typedef struct tile {
    size_t first, apart;
} tile;

/* How n_rows are dealt out to tiles: far apart, so that each of the eight walks on through memory
 * from tile to tile, which is what the processor's own prefetching follows. A last tile takes the
 * last eight rows, some of them again; with fewer than eight each has one, eight times. */
static size_t n_tiles_of(size_t n_rows) {
    return n_rows < TILE_ROWS ? n_rows : (n_rows + TILE_ROWS - 1) / TILE_ROWS;
}

static tile tile_at(size_t t, size_t n_rows) {
    if (n_rows < TILE_ROWS) return (tile){t, 0};
    if (t < n_rows / TILE_ROWS) return (tile){t, n_rows / TILE_ROWS};
    return (tile){n_rows - TILE_ROWS, 1};
}

/* Columns of activations, x_bytes apart. */
typedef struct columns {
    const uint8_t *x;
    size_t x_bytes;
} columns;

/* sums[row][column] += one block, which begins with value i; n values of it are there. */
VEC_INLINE void add_block(number k, size_t n_rows, size_t n_cols, const uint8_t *rows,
                          size_t stride, columns x, size_t i, size_t n,
                          __m512 sums[TILE_ROWS][FEW_TILE_COLS]) {
    const number kx = acts_number(k);
    const bool is_whole = n >= block_dim(k);
    x.x += i * value_bytes(kx);
    rows += i * value_bytes(k);
#pragma GCC unroll 2
    for (size_t s = 0; s < block_steps(k); s++) {
        __m512 a[FEW_TILE_COLS];
#pragma GCC unroll 6
        for (size_t c = 0; c < n_cols; c++) {
            const uint8_t *at = x.x + c * x.x_bytes;
            a[c] = is_whole ? load_step(kx, at, s) : load_last(kx, at, s, n, col_fill);
        }
#pragma GCC unroll 8
        for (size_t r = 0; r < n_rows; r++) {
            const uint8_t *row = rows + r * stride;
            __m512 w = is_whole ? load_step(k, row, s) : load_last(k, row, s, n, row_fill);
#pragma GCC unroll 6
            for (size_t c = 0; c < n_cols; c++) sums[r][c] = _mm512_fmadd_ps(w, a[c], sums[r][c]);
        }
    }
}

/* out[column][row] = the dots of n_rows rows of a tile with some columns, straight from memory. */
VEC_INLINE void dot_rows(number k, size_t n_rows, size_t n_cols, const uint8_t *rows, size_t stride,
                         columns x, size_t n, lanes (*out)[TILE_ROWS], size_t r0) {
    __m512 sums[TILE_ROWS][FEW_TILE_COLS];
#pragma GCC unroll 8
    for (size_t r = 0; r < n_rows; r++) {
#pragma GCC unroll 6
        for (size_t c = 0; c < n_cols; c++) sums[r][c] = _mm512_setzero_ps();
    }
    size_t i = 0;
    for (; i + block_dim(k) <= n; i += block_dim(k)) {
        add_block(k, n_rows, n_cols, rows, stride, x, i, block_dim(k), sums);
        const uint8_t *ahead = rows + i * value_bytes(k) + AHEAD_BYTES;
#pragma GCC unroll 8
        for (size_t r = 0; r < n_rows; r++) {
            _mm_prefetch((const void *)(ahead + r * stride), _MM_HINT_T0);
        }
    }
    if (i < n) add_block(k, n_rows, n_cols, rows, stride, x, i, n - i, sums);
#pragma GCC unroll 8
    for (size_t r = 0; r < n_rows; r++) {
#pragma GCC unroll 6
        for (size_t c = 0; c < n_cols; c++) _mm512_storeu_ps(out[c][r0 + r], sums[r][c]);
    }
}

/* A whole tile with 1 to FEW_TILE_COLS columns: 4 x 6 chains, or eight of one column. */
VEC_INLINE void dot_few(number k, size_t n_cols, const uint8_t *rows, size_t stride, columns x,
                        size_t n, lanes (*out)[TILE_ROWS]) {
    const size_t n_rows = n_cols == 1 ? TILE_ROWS : TILE_ROWS / 2;
    for (size_t r = 0; r < TILE_ROWS; r += n_rows) {
        dot_rows(k, n_rows, n_cols, rows + r * stride, stride, x, n, out, r);
    }
}

/* out[column][row] += a span of a widened tile with some columns. */
VEC_INLINE void dot_span(size_t n_cols, const float *rows, const float *cols, size_t n_steps,
                         lanes (*out)[TILE_ROWS]) {
    __m512 sums[TILE_COLS][TILE_ROWS];
#pragma GCC unroll 3
    for (size_t c = 0; c < n_cols; c++) {
#pragma GCC unroll 8
        for (int r = 0; r < TILE_ROWS; r++) sums[c][r] = _mm512_loadu_ps(out[c][r]);
    }
    for (; n_steps; n_steps--, rows += TILE_ROWS * N_LANES, cols += n_cols * N_LANES) {
        __m512 a[TILE_COLS];
#pragma GCC unroll 3
        for (size_t c = 0; c < n_cols; c++) a[c] = _mm512_loadu_ps(cols + c * N_LANES);
#pragma GCC unroll 8
        for (size_t r = 0; r < TILE_ROWS; r++) {
            __m512 w = _mm512_loadu_ps(rows + r * N_LANES);
            __asm__("" : "+v"(w)); /* one load for all columns */
#pragma GCC unroll 3
            for (size_t c = 0; c < n_cols; c++) sums[c][r] = _mm512_fmadd_ps(w, a[c], sums[c][r]);
        }
    }
#pragma GCC unroll 3
    for (size_t c = 0; c < n_cols; c++) {
#pragma GCC unroll 8
        for (int r = 0; r < TILE_ROWS; r++) _mm512_storeu_ps(out[c][r], sums[c][r]);
    }
}

/* ---- the lanes' sums ------------------------------------------------------------------------- */

VEC_INLINE __m512 load_lanes(number k, const float *from) {
    const __m512 x = _mm512_loadu_ps(from);
    if (k != BF16) return x;
    const __m512 sign = _mm512_set1_ps(-0.0f);
    __mmask16 is_tiny =
        _mm512_cmp_ps_mask(_mm512_andnot_ps(sign, x), _mm512_set1_ps(FLT_MIN), _CMP_LT_OQ);
    return _mm512_mask_and_ps(x, is_tiny, x, sign);
}

/* The lanes of two rows folded to eight sums each, those of four to four each, of eight to two. */
VEC_INLINE __m512 fold_two(number k, const float *from) {
    __m512 a = load_lanes(k, from), b = load_lanes(k, from + N_LANES);
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}
VEC_INLINE __m512 fold_four(number k, const float *from) {
    __m512 a = fold_two(k, from), b = fold_two(k, from + 2 * N_LANES);
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
VEC_INLINE __m512 fold_eight(number k, const float *from) {
    __m512d a = _mm512_castps_pd(fold_four(k, from));
    __m512d b = _mm512_castps_pd(fold_four(k, from + 4 * N_LANES));
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
}

/* exact_tree16 of a tile's eight rows at once. */
VEC_INLINE void sum_rows(number k, const float *from, float *y, size_t apart) {
    const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512 pairs = fold_eight(k, from);
    __m512 sums = _mm512_add_ps(pairs, _mm512_shuffle_ps(pairs, pairs, 0xf5));
    float out[TILE_ROWS];
    _mm256_storeu_ps(out, _mm512_castps512_ps256(_mm512_permutexvar_ps(in_order, sums)));
    for (size_t r = 0; r < TILE_ROWS; r++) y[r * apart] = out[r];
}

/* ---- the product ----------------------------------------------------------------------------- */

typedef void widen_function(const uint8_t *values, size_t i, size_t end, size_t n, float fill,
                            float *to, size_t stride);
typedef void few_function(const uint8_t *rows, size_t stride, columns x, size_t n,
                          lanes (*out)[TILE_ROWS]);
typedef void span_function(const float *rows, const float *cols, size_t n_steps,
                           lanes (*out)[TILE_ROWS]);
typedef void sum_function(const float *from, float *y, size_t apart);

typedef struct float_quant {
    number k;
    widen_function *widen, *widen_acts;
    sum_function *sum;
    few_function *few[FEW_TILE_COLS]; /* [columns - 1] */
} float_quant;

/* A group of rows and some columns on their way through a product. */
typedef struct walk {
    const float_quant *q;
    const uint8_t *rows;
    size_t row_bytes, n_rows;
    const uint8_t *x;      /* [n_cols][x_bytes] */
    const uint8_t *next_x; /* what columns come after them; NULL: none */
    size_t next_bytes;     /* of them for each part of a tile's span */
    size_t x_bytes, n_cols;
    size_t part, n_parts; /* the columns that meet a tile at the same time, how often that is */
    size_t n;             /* values of a row */
    bool is_whole; /* the columns fit scratch: a tile's lanes are done with before the next's */
    float *y;      /* [n_cols][y_stride] */
    size_t y_stride;
    float *span;              /* [step][row of a tile][lane] */
    lanes (*sums)[TILE_ROWS]; /* [tile][column][row][lane] */
    float *cols;              /* by TILE_COLS: [step][column][lane] */
} walk;

/* Denormals-are-zero while BF16's dots run. They are calls, not inlined, so that none of their
 * arithmetic can move across the switch. */
static unsigned enter(number k) {
    const unsigned state = _mm_getcsr();
    if (k == BF16) _mm_setcsr(state | _MM_DENORMALS_ZERO_MASK);
    return state;
}

static void leave(number k, unsigned state) {
    if (k == BF16) _mm_setcsr(state);
}

static void store_sums(const walk *w, tile at, lanes (*sums)[TILE_ROWS]) {
    for (size_t c = 0; c < w->n_cols; c++) {
        w->q->sum(sums[c][0], w->y + c * w->y_stride + at.first, at.apart);
    }
}

static const uint8_t *row_at(const walk *w, tile at, size_t r) {
    return w->rows + (at.first + r * at.apart) * w->row_bytes;
}

static void multiply_few(const walk *w) {
    const size_t part = even_part(w->n_cols, FEW_TILE_COLS);
    for (size_t t = 0; t < n_tiles_of(w->n_rows); t++) {
        const tile at = tile_at(t, w->n_rows);
        const unsigned state = enter(w->q->k);
        for (size_t c = 0; c < w->n_cols; c += part) {
            const columns x = {w->x + c * w->x_bytes, w->x_bytes};
            w->q->few[smaller(part, w->n_cols - c) - 1](row_at(w, at, 0), at.apart * w->row_bytes,
                                                        x, w->n, w->sums + c);
        }
        leave(w->q->k, state);
        store_sums(w, at, w->sums);
    }
}

static void fetch(const uint8_t *at, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i += 64) _mm_prefetch((const void *)(at + i), _MM_HINT_T1);
}

static void widen_cols(const walk *w, size_t i, size_t end) {
    const size_t n_steps = n_steps_of(w->q->k, end - i), part = w->part;
    for (size_t c0 = 0; c0 < w->n_cols; c0 += part) {
        const size_t n = smaller(part, w->n_cols - c0);
        for (size_t c = 0; c < n; c++) {
            w->q->widen_acts(w->x + (c0 + c) * w->x_bytes, i, end, w->n, col_fill,
                             w->cols + (c0 * n_steps + c) * N_LANES, n * N_LANES);
        }
    }
}

static span_function *const dot_spans[TILE_COLS];

/* What memory is asked for while part g of a tile's columns is met: the rows' next values where
 * they are read but once, else a share of the columns that come next. */
static void fetch_ahead(walk *w, tile at, size_t i, size_t end, size_t g) {
    if (w->next_x) {
        fetch(w->next_x, w->next_bytes);
        w->next_x += w->next_bytes;
        return;
    }
    for (size_t r = g; r < TILE_ROWS; r += w->n_parts) {
        fetch(row_at(w, at, r) + end * value_bytes(w->q->k), (end - i) * value_bytes(w->q->k));
    }
}

/* Values [i, end) of a tile with all columns, which are widened from value i0 on, n_steps. */
static void dot_tile(walk *w, tile at, size_t i0, size_t n_steps, size_t i, size_t end,
                     lanes (*sums)[TILE_ROWS]) {
    const size_t step = n_steps_of(w->q->k, i - i0), n_here = n_steps_of(w->q->k, end - i);
    for (size_t r = 0; r < TILE_ROWS; r++) {
        w->q->widen(row_at(w, at, r), i, end, w->n, row_fill, w->span + r * N_LANES,
                    TILE_ROWS * N_LANES);
    }
    for (size_t g = 0, c = 0; c < w->n_cols; g++, c += w->part) {
        const size_t n = smaller(w->part, w->n_cols - c);
        fetch_ahead(w, at, i, end, g);
        dot_spans[n - 1](w->span, w->cols + (c * n_steps + step * n) * N_LANES, n_here, sums + c);
    }
}

/* Values [i0, end0) of all rows, `span` at a time, with all columns. */
static void dot_chunk(walk *w, size_t i0, size_t end0, size_t span) {
    const size_t n_steps = n_steps_of(w->q->k, end0 - i0);
    widen_cols(w, i0, end0);
    for (size_t t = 0; t < n_tiles_of(w->n_rows); t++) {
        lanes(*const sums)[TILE_ROWS] = w->sums + (w->is_whole ? 0 : t * w->n_cols);
        const tile at = tile_at(t, w->n_rows);
        if (i0 == 0) memset(sums, 0, w->n_cols * sizeof *sums);
        const unsigned state = enter(w->q->k);
        for (size_t i = i0; i < end0; i += span) {
            dot_tile(w, at, i0, n_steps, i, smaller(i + span, end0), sums);
        }
        leave(w->q->k, state);
        if (end0 == w->n) store_sums(w, at, sums);
    }
}

static void multiply_panel(const walk *w) {
    const number k = w->q->k;
    const size_t n_sums = (w->is_whole ? 1 : n_tiles_of(w->n_rows)) * w->n_cols;
    const size_t n_blocks = n_steps_of(k, w->n) / block_steps(k);
    const size_t span_blocks = even_part(n_blocks, SPAN_STEPS / block_steps(k));
    const size_t span = span_blocks * block_dim(k);
    const size_t room = SCRATCH_FLOATS - TILE_FLOATS - n_sums * TILE_ROWS * N_LANES;
    const size_t span_floats = span_blocks * block_steps(k) * w->n_cols * N_LANES;
    const size_t chunk = w->is_whole ? w->n : room / span_floats * span;
    walk here = *w;
    here.cols = (float *)(w->sums + n_sums);
    here.part = even_part(w->n_cols, TILE_COLS);
    here.n_parts = (w->n_cols + here.part - 1) / here.part;
    here.next_bytes = w->n_cols * w->x_bytes / (n_tiles_of(w->n_rows) * here.n_parts) /
                      ((n_blocks + span_blocks - 1) / span_blocks);
    for (size_t i = 0; i < w->n; i += chunk) {
        dot_chunk(&here, i, smaller(i + chunk, w->n), span);
    }
}

/* Columns that fit scratch whole, with the lanes of one tile. */
static size_t n_whole_cols(number k, size_t n) {
    return (SCRATCH_FLOATS - TILE_FLOATS) / ((n_steps_of(k, n) + TILE_ROWS) * N_LANES);
}

/* Fewer rows than a tile's are a tile each; fewer columns never take more than many. */
size_t avx512_float_scratch(quant q, size_t n, size_t n_rows, size_t n_cols) {
    const number k = quant_table[q].acts == ACTS_BF16 ? BF16 : F32; /* steps of F16 are F32's */
    const size_t cols = smaller(n_cols, MOST_COLS), rows = smaller(n_rows, MOST_ROWS);
    const size_t most_tiles = rows < TILE_ROWS ? rows : (rows + TILE_ROWS - 1) / TILE_ROWS;
    const bool is_whole = n_whole_cols(k, n) >= smaller(cols, MOST_COLS / 2);
    const size_t n_tiles = is_whole ? 1 : most_tiles < TILE_ROWS ? TILE_ROWS - 1 : most_tiles;
    const size_t n_steps = cols <= FEW_COLS ? 0 : n_steps_of(k, n);
    const size_t of_cols = cols * (n_tiles * TILE_ROWS + n_steps) * N_LANES;
    return smaller(TILE_FLOATS + of_cols, SCRATCH_FLOATS) * sizeof(float);
}

static void multiply(const float_quant *q, const product *p) {
    const size_t n = p->a->n, x_bytes = n * value_bytes(acts_number(q->k));
    const void *values = q->k == BF16 ? (const void *)p->a->bf16 : (const void *)p->a->f32;
    const uint8_t *const x = (const uint8_t *)values + p->col0 * x_bytes;
    const size_t n_whole = n_whole_cols(q->k, n);
    const bool is_whole = n_whole >= smaller(p->n_cols, MOST_COLS / 2);
    const size_t most_cols = is_whole ? smaller(n_whole, MOST_COLS) : MOST_COLS;
    const size_t rows_part = even_part(p->n_rows, MOST_ROWS);
    const size_t cols_part = even_part(p->n_cols, most_cols);
    walk w = {.q = q,
              .row_bytes = p->row_bytes,
              .x_bytes = x_bytes,
              .n = n,
              .is_whole = is_whole,
              .y_stride = p->y_stride,
              .span = p->scratch,
              .sums = (void *)((float *)p->scratch + TILE_FLOATS)};
    for (size_t r = 0; r < p->n_rows; r += rows_part) {
        w.rows = p->rows + r * p->row_bytes;
        w.n_rows = smaller(rows_part, p->n_rows - r);
        for (size_t c = 0; c < p->n_cols; c += cols_part) {
            w.x = x + c * x_bytes;
            w.n_cols = smaller(cols_part, p->n_cols - c);
            /* 0: another task's */
            const size_t next = c + cols_part < p->n_cols ? c + cols_part : 0;
            w.next_x = cols_part < p->n_cols ? x + next * x_bytes : NULL;
            w.y = p->y + c * p->y_stride + r;
            (w.n_cols <= FEW_COLS ? multiply_few : multiply_panel)(&w);
        }
    }
}

/* clang-format off */

#define SPAN(n_cols)                                                                               \
    static __attribute__((noinline)) void dot_span_##n_cols(                                       \
        const float *rows, const float *cols, size_t n_steps, lanes (*out)[TILE_ROWS]) {           \
        dot_span(n_cols, rows, cols, n_steps, out);                                                \
    }
#define FEW(stem, number, n_cols)                                                                  \
    static __attribute__((noinline)) void dot_few_##stem##_##n_cols(                               \
        const uint8_t *rows, size_t stride, columns x, size_t n, lanes (*out)[TILE_ROWS]) {        \
        dot_few(number, n_cols, rows, stride, x, n, out);                                          \
    }
#define FORMAT(stem, number, acts_stem)                                                            \
    static __attribute__((noinline)) void widen_##stem(                                            \
        const uint8_t *values, size_t i, size_t end, size_t n, float fill, float *to,              \
        size_t stride) {                                                                           \
        widen(number, values, i, end, n, fill, to, stride);                                        \
    }                                                                                              \
    FEW(stem, number, 1)                                                                           \
    FEW(stem, number, 2)                                                                           \
    FEW(stem, number, 3)                                                                           \
    FEW(stem, number, 4)                                                                           \
    FEW(stem, number, 5)                                                                           \
    FEW(stem, number, 6)                                                                           \
    static __attribute__((noinline)) void sum_rows_##stem(const float *from, float *y,             \
                                                          size_t apart) {                          \
        sum_rows(number, from, y, apart);                                                          \
    }                                                                                              \
    void avx512_matmul_##stem(const product *p) {                                                  \
        static const float_quant q = {                                                             \
            number,                                                                                \
            widen_##stem,                                                                          \
            widen_##acts_stem,                                                                     \
            sum_rows_##stem,                                                                       \
            {dot_few_##stem##_1, dot_few_##stem##_2, dot_few_##stem##_3, dot_few_##stem##_4,       \
             dot_few_##stem##_5, dot_few_##stem##_6},                                              \
        };                                                                                         \
        multiply(&q, p);                                                                           \
    }

/* clang-format on */

SPAN(1)
SPAN(2)
SPAN(3)

static span_function *const dot_spans[TILE_COLS] = {dot_span_1, dot_span_2, dot_span_3};

FORMAT(f32, F32, f32)
FORMAT(f16, F16, f32)
FORMAT(bf16, BF16, bf16)
