/* avx2_panel: the product of many columns with unpacked rows.
 *
 * Here the activations are the unsigned side, a + 128, and the codes the signed one, so that every
 * product takes its codes from memory within the multiplication and a broadcast of activations
 * serves all slabs: about two and a half instructions for 32 products. What the 128 adds depends
 * on the weights alone: it is taken off in `start`, the sum of a run with a column of -128.
 *
 *   int16 sums of a run of n steps hold |2 n * code * 127| < 2^15:
 *     codes up to 16 (4 bits; 5 bits less 16) 8 steps, up to 32 (5 bits; 6 bits less 32) 4 steps
 *
 * Codes of 8 bits would saturate. In int16 weights and activations they are summed by vpmaddwd,
 * and superblocks have their scales multiplied in; with AVX-VNNI they are codes like all others.
 */
#ifndef LL_KERNELS_AVX2_PANEL_H
#define LL_KERNELS_AVX2_PANEL_H

#include "kernels/avx2/avx2_dot.h"

/* ---- columns -------------------------------------------------------------------------------- */

typedef struct col32 {
    _Alignas(32) uint8_t q[PANEL_DIM]; /* a + 128 */
    float d[8], sum[8];
} col32;

typedef struct col256 {
    _Alignas(32) uint8_t q[PANEL_DIM]; /* a + 128 */
    int16_t sums[16];                  /* of 16, or of 32 where sub-blocks are */
    float d;
} col256;

typedef struct col_int16 {
    _Alignas(32) int16_t q[PANEL_DIM];
    float d[8]; /* [block] */
} col_int16;

TILE_INLINE void panel_bias_values(const int8_t *from, size_t n, uint8_t *to) {
    for (size_t i = 0; i < n; i += 32) {
        __m256i x = _mm256_loadu_si256((const void *)(from + i));
        x = _mm256_xor_si256(x, _mm256_set1_epi8((char)0x80));
        _mm256_store_si256((void *)(to + i), x);
    }
}

TILE_INLINE void panel_pack32(const acts *a, size_t col, size_t n_cols, size_t block0,
                              size_t n_blocks, void *cols) {
    col32 *to = cols;
    for (size_t c = col; c < col + n_cols; c++, to++) {
        for (size_t b = 0; b < n_blocks; b++) {
            size_t i = acts_block(a, block0 + b, c);
            panel_bias_values(a->q + i * 32, 32, to->q + b * 32);
            to->d[b] = a->d[i];
            to->sum[b] = a->sum[i];
        }
    }
}

TILE_INLINE void panel_pack256(int n_sub, const acts *a, size_t col, size_t n_cols, size_t block0,
                               void *cols) {
    col256 *to = cols;
    for (size_t c = col; c < col + n_cols; c++, to++) {
        size_t i = acts_block(a, block0, c);
        panel_bias_values(a->q + i * 256, 256, to->q);
        dot_sub_sums(n_sub, a->sums + i * 16, to->sums);
        to->d = a->d[i];
    }
}

TILE_INLINE void panel_pack_int16(size_t dim, const acts *a, size_t col, size_t n_cols,
                                  size_t block0, size_t n_blocks, void *cols) {
    col_int16 *to = cols;
    for (size_t c = col; c < col + n_cols; c++, to++) {
        for (size_t b = 0; b < n_blocks; b++) {
            size_t i = acts_block(a, block0 + b, c);
            for (size_t j = 0; j < dim; j += 16) {
                __m128i x = _mm_loadu_si128((const void *)(a->q + i * dim + j));
                _mm256_storeu_si256((void *)(to->q + b * dim + j), _mm256_cvtepi8_epi16(x));
            }
            to->d[b] = a->d[i];
        }
    }
}

/* ---- tiles ---------------------------------------------------------------------------------- */

TILE_INLINE int dot_largest_centered(dot_traits f) {
    return f.zero > f.largest - f.zero ? f.zero : f.largest - f.zero;
}

/* Takes the zero point off the codes of a run and returns what its sum starts from. */
TILE_INLINE __m256i panel_center(int zero, int n_steps, __m256i *w) {
    const __m256i offset = _mm256_set1_epi8((char)0x80);
    __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int s = 0; s < n_steps; s++) {
        if (zero) w[s] = _mm256_sub_epi8(w[s], _mm256_set1_epi8((char)zero));
        sum = step_next(sum, offset, w[s]);
    }
    return step_subtract(_mm256_setzero_si256(), sum);
}

TILE_INLINE void panel_center32(dot_traits f, tile32 *t) {
    const int n = step_run(dot_largest_centered(f), 8);
    for (int s = 0; s < 8; s += n) {
        __m256i start = panel_center(f.zero, n, t->w + s);
        t->start[s / n] = start;
    }
}

TILE_INLINE void panel_center256(dot_traits f, tile256 *t) {
    const int n_steps = 64 / f.n_sub, n = step_run(dot_largest_centered(f), n_steps);
    for (int s = 0; s < 64; s += n) t->start[s / n] = panel_center(f.zero, n, t->w + s);
    if (!STEP_IS_WIDE) return;
    __m256i sum = _mm256_setzero_si256(); /* one start for the whole superblock */
    for (int j = 0; j < f.n_sub; j++) {
        sum = _mm256_add_epi32(sum, step_end(t->start[j], t->scale[j]));
    }
    t->start[0] = sum;
}

/* A slab's span in int16, pairs of values a dword. */
typedef struct tile_int16 {
    __m256i w[PANEL_DIM / 2]; /* [value / 2][row][value % 2] */
    __m256 d[8];              /* [block][row] */
} tile_int16;

TILE_INLINE void panel_widen(const __m256i *w, int n, __m256i *to) {
    for (int s = 0; s < n; s++) {
        to[2 * s] = _mm256_srai_epi16(dot_byte_pair(w[s], 0, 1), 8);
        to[2 * s + 1] = _mm256_srai_epi16(dot_byte_pair(w[s], 2, 3), 8);
    }
}

TILE_INLINE void panel_widen32(const tile32 *t, size_t block, tile_int16 *to) {
    panel_widen(t->w, 8, to->w + 16 * block);
    to->d[block] = t->d;
}

/* |scale * code| < 2^15 for the one format of superblocks that has 8-bit codes. */
TILE_INLINE void panel_widen256(const tile256 *t, tile_int16 *to) {
    panel_widen(t->w, 64, to->w);
    for (int i = 0; i < 128; i++) to->w[i] = _mm256_mullo_epi16(to->w[i], t->scale[i / 16]);
    to->d[0] = t->d;
}

/* ---- dots ----------------------------------------------------------------------------------- */

/* sums[slab] of a run of n steps; w and start of the slabs lie slab_bytes apart. */
TILE_INLINE void panel_run(int n, size_t slab_bytes, const void *w, const void *start,
                           const uint8_t *q, __m256i sums[PANEL_SLABS]) {
#pragma GCC unroll 8
    for (size_t s = 0; s < (size_t)n; s++) {
        __m256i a = tile_broadcast(q + 4 * s);
#pragma GCC unroll 4
        for (size_t h = 0; h < PANEL_SLABS; h++) {
            const __m256i *codes = (const void *)((const uint8_t *)w + h * slab_bytes);
            if (s) {
                sums[h] = step_next(sums[h], a, codes[s]);
            } else if (start) {
                const __m256i *first = (const void *)((const uint8_t *)start + h * slab_bytes);
                sums[h] = step_next(*first, a, codes[0]);
            } else {
                sums[h] = step_first(a, codes[0]);
            }
            DOT_FENCE(sums[h]);
        }
    }
}

/* y += t * d, one row of it. */
TILE_INLINE void panel_add(float *y, __m256 t, __m256 d) {
    _mm256_storeu_ps(y, _mm256_fmadd_ps(t, d, _mm256_loadu_ps(y)));
}

TILE_INLINE void panel_dot32(dot_traits f, const tile32 *slabs, size_t slab_tiles, const col32 *col,
                             size_t n_cols, size_t n_blocks, float *y, size_t stride) {
    const int n = step_run(dot_largest_centered(f), 8);
    for (; n_cols; n_cols--, col++, y += stride) {
        const tile32 *tile = slabs;
        const uint8_t *q = col->q;
        __m256 acc[PANEL_SLABS];
#pragma GCC unroll 4
        for (int h = 0; h < PANEL_SLABS; h++) acc[h] = _mm256_loadu_ps(y + TILE_ROWS * h);
        for (size_t b = 0; b < n_blocks; b++, tile++, q += 32) {
            __m256i sums[PANEL_SLABS];
#pragma GCC unroll 2
            for (int s = 0; s < 8; s += n) {
                __m256i runs[PANEL_SLABS];
                panel_run(n, slab_tiles * sizeof *tile, tile->w + s, tile->start + s / n, q + 4 * s,
                          runs);
#pragma GCC unroll 4
                for (int h = 0; h < PANEL_SLABS; h++) {
                    __m256i p = step_end_unscaled(runs[h]);
                    sums[h] = s ? _mm256_add_epi32(sums[h], p) : p;
                }
            }
            __m256 d = _mm256_broadcast_ss(col->d + b), sum = _mm256_broadcast_ss(col->sum + b);
#pragma GCC unroll 4
            for (size_t h = 0; h < PANEL_SLABS; h++) {
                const tile32 *at = tile + h * slab_tiles;
                __m256 t = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[h]), at->d);
                if (f.has_min) t = _mm256_fmadd_ps(sum, at->m, t);
                acc[h] = _mm256_fmadd_ps(t, d, acc[h]);
            }
        }
#pragma GCC unroll 4
        for (int h = 0; h < PANEL_SLABS; h++) _mm256_storeu_ps(y + TILE_ROWS * h, acc[h]);
    }
}

TILE_INLINE void panel_dot256(dot_traits f, const tile256 *tile, const col256 *col, size_t n_cols,
                              float *y, size_t stride) {
    const int n_steps = 64 / f.n_sub, n = step_run(dot_largest_centered(f), n_steps);
    for (; n_cols; n_cols--, col++, y += stride) {
        const uint8_t *q = col->q;
        const __m256i *w = tile->w, *start = STEP_IS_WIDE ? NULL : tile->start;
        const __m256i *scale = tile->scale;
        __m256i sums[PANEL_SLABS];
#pragma GCC unroll 4
        for (int h = 0; h < PANEL_SLABS; h++) {
            sums[h] = STEP_IS_WIDE ? tile[h].start[0] : _mm256_setzero_si256();
        }
#pragma GCC unroll 1
        for (int j = 0; j < f.n_sub; j++, scale++) {
#pragma GCC unroll 2
            for (int s = 0; s < n_steps; s += n, q += 4 * n, w += n) {
                __m256i runs[PANEL_SLABS];
                panel_run(n, sizeof *tile, w, start, q, runs);
                if (!STEP_IS_WIDE) start++;
#pragma GCC unroll 4
                for (size_t h = 0; h < PANEL_SLABS; h++) {
                    const __m256i *at = (const void *)((const tile256 *)(const void *)scale + h);
                    sums[h] = _mm256_add_epi32(sums[h], step_end(runs[h], *at));
                    DOT_FENCE(sums[h]);
                }
            }
        }
        __m256i bias[PANEL_SLABS];
#pragma GCC unroll 8
        for (int g = 0; g < f.n_sub / 2; g++) {
            if (!f.has_min) break;
            __m256i pair = tile_broadcast(col->sums + 2 * g);
#pragma GCC unroll 4
            for (int h = 0; h < PANEL_SLABS; h++) {
                __m256i p = _mm256_madd_epi16(pair, tile[h].bias[g]);
                bias[h] = g ? _mm256_add_epi32(bias[h], p) : p;
                DOT_FENCE(bias[h]);
            }
        }
        __m256 d = _mm256_broadcast_ss(&col->d);
#pragma GCC unroll 4
        for (int h = 0; h < PANEL_SLABS; h++) {
            __m256 t = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[h]), tile[h].d);
            if (f.has_min) t = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(bias[h]), tile[h].dmin, t);
            panel_add(y + TILE_ROWS * h, t, d);
        }
    }
}

/* Blocks of n_steps pairs of values. */
TILE_INLINE void panel_dot_int16(int n_steps, const tile_int16 *tile, const col_int16 *col,
                                 size_t n_cols, size_t n_blocks, float *y, size_t stride) {
    for (; n_cols; n_cols--, col++, y += stride) {
        const int16_t *q = col->q;
        const __m256i *w = tile->w;
        for (size_t b = 0; b < n_blocks; b++) {
            __m256i sums[PANEL_SLABS];
#pragma GCC unroll 4
            for (int h = 0; h < PANEL_SLABS; h++) sums[h] = _mm256_setzero_si256();
            for (int s = 0; s < n_steps; s += 16, q += 32, w += 16) {
#pragma GCC unroll 16
                for (int i = 0; i < 16; i++) {
                    __m256i a = tile_broadcast(q + 2 * i);
#pragma GCC unroll 4
                    for (size_t h = 0; h < PANEL_SLABS; h++) {
                        const __m256i *at = (const void *)((const tile_int16 *)(const void *)w + h);
                        sums[h] = _mm256_add_epi32(sums[h], _mm256_madd_epi16(a, at[i]));
                        DOT_FENCE(sums[h]);
                    }
                }
            }
            __m256 d = _mm256_broadcast_ss(col->d + b);
#pragma GCC unroll 4
            for (int h = 0; h < PANEL_SLABS; h++) {
                __m256 t = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[h]), tile[h].d[b]);
                panel_add(y + TILE_ROWS * h, t, d);
            }
        }
    }
}

/* ---- by a format's traits -------------------------------------------------------------------- */

/* One block's unpacking, see PANEL_32. */
typedef void unpack_tile32(tile_rows rows, size_t at, tile32 *t);

TILE_INLINE void panel_unpack32(unpack_tile32 *unpack, size_t block_bytes, dot_traits f,
                                tile_rows rows, size_t n_blocks, void *slab) {
    tile32 *to = slab;
    for (size_t b = 0; b < n_blocks; b++) {
        tile32 t;
        unpack(rows, b * block_bytes, &t);
        if (dot_is_signed(f)) {
            panel_widen32(&t, b, slab);
        } else {
            panel_center32(f, &t);
            to[b] = t;
        }
    }
}

/* A span is one superblock. */
TILE_INLINE void panel_unpack256(dot_header *header, dot_codes *codes, dot_traits f, tile_rows rows,
                                 void *slab) {
    const int n_steps = 64 / f.n_sub;
    tile256 t;
    header(rows, 0, &t);
    for (int quarter = 0; quarter < DOT_QUARTERS; quarter++) {
        __m256i w[16];
        codes(rows, 0, quarter, w);
        for (int i = 0; i < f.n_sub / DOT_QUARTERS; i++) {
            const int j = dot_sub_block(f.n_sub, quarter, i);
            memcpy(t.w + j * n_steps, w + i * n_steps, (size_t)n_steps * sizeof *w);
        }
    }
    if (dot_is_signed(f)) {
        panel_widen256(&t, slab);
    } else {
        panel_center256(f, &t);
        memcpy(slab, &t, sizeof t);
    }
}

TILE_INLINE void panel_pack_any32(dot_traits f, const acts *a, size_t col, size_t n_cols,
                                  size_t block0, size_t n_blocks, void *cols) {
    if (dot_is_signed(f)) {
        panel_pack_int16(32, a, col, n_cols, block0, n_blocks, cols);
    } else {
        panel_pack32(a, col, n_cols, block0, n_blocks, cols);
    }
}

TILE_INLINE void panel_pack_any256(dot_traits f, const acts *a, size_t col, size_t n_cols,
                                   size_t block0, size_t n_blocks, void *cols) {
    if (dot_is_signed(f)) {
        panel_pack_int16(256, a, col, n_cols, block0, n_blocks, cols);
    } else {
        panel_pack256(f.n_sub, a, col, n_cols, block0, cols);
    }
}

TILE_INLINE void panel_dot_any32(dot_traits f, const void *slabs, const void *cols, size_t n_cols,
                                 size_t n_blocks, float *sums, size_t stride) {
    if (dot_is_signed(f)) {
        panel_dot_int16(16, slabs, cols, n_cols, n_blocks, sums, stride);
    } else {
        panel_dot32(f, slabs, PANEL_DIM / 32, cols, n_cols, n_blocks, sums, stride);
    }
}

TILE_INLINE void panel_dot_any256(dot_traits f, const void *slabs, const void *cols, size_t n_cols,
                                  size_t n_blocks, float *sums, size_t stride) {
    if (dot_is_signed(f)) {
        panel_dot_int16(128, slabs, cols, n_cols, n_blocks, sums, stride);
    } else {
        panel_dot256(f, slabs, cols, n_cols, sums, stride);
    }
}

/* The largest slab that is streamed by way of L1: with the activations it must fit twice.
 * Superblocks come from L2 in time, so theirs may go there earlier. */
enum { PANEL_L1_SLAB_32 = 12 * 1024, PANEL_L1_SLAB_256 = 8 * 1024 };

/* ---- a format ------------------------------------------------------------------------------- */

/* clang-format off */

/* A format: PANEL_32(name in quant_blocks.h, dot_traits …). Its author writes
 * name_unpack(rows, at, tile), which unpacks the blocks of 8 rows that begin `at` bytes in. */
#define PANEL_32(name, ...)                                                                        \
    PANEL_FORMAT(name, 32, __VA_ARGS__)                                                            \
    static void name##_unpack_slab(tile_rows rows, size_t n_blocks, void *slab) {                  \
        panel_unpack32(name##_unpack, sizeof(block_##name), name##_traits, rows, n_blocks, slab);  \
    }                                                                                              \
    TILE_INLINE void name##_dot_block(int n_cols, tile_rows rows, size_t at, bool is_long,         \
                                      const uint8_t *ahead, dot_columns a,                         \
                                      float sums[TILE_COLS][TILE_ROWS]) {                          \
        tile32 t;                                                                                  \
        name##_unpack(rows, at, &t);                                                               \
        dot32(name##_traits, n_cols, &t, a, sums);                                                 \
        if (is_long) {                                                                             \
            tile_prefetch_l2(ahead, TILE_ROWS * sizeof(block_##name));                             \
        } else {                                                                                   \
            tile_prefetch(ahead, TILE_ROWS * sizeof(block_##name));                                \
        }                                                                                          \
    }                                                                                              \
    PANEL_STREAMS(name, 32)

/* PANEL_256(name, dot_traits …). Its author writes name_header(rows, at, tile) and
 * name_codes(rows, at, quarter, w), see avx2_dot.h. */
#define PANEL_256(name, ...)                                                                       \
    PANEL_FORMAT(name, 256, __VA_ARGS__)                                                           \
    static void name##_unpack_slab(tile_rows rows, size_t n_blocks, void *slab) {                  \
        (void)n_blocks;                                                                            \
        panel_unpack256(name##_header, name##_codes, name##_traits, rows, slab);                   \
    }                                                                                              \
    TILE_INLINE void name##_dot_block(int n_cols, tile_rows rows, size_t at, bool is_long,         \
                                      const uint8_t *ahead, dot_columns a,                         \
                                      float sums[TILE_COLS][TILE_ROWS]) {                          \
        dot256(name##_traits, n_cols, name##_header, name##_codes, rows, at, is_long, ahead,       \
               sizeof(block_##name), a, sums);                                                     \
    }                                                                                              \
    PANEL_STREAMS(name, 256)

/* What both kinds of blocks have; tile.c's view of a format. */
#define PANEL_FORMAT(name, dim, ...)                                                               \
    static const dot_traits name##_traits = {__VA_ARGS__};                                         \
    static tile_stream name##_stream_1, name##_stream_2, name##_stream_3, name##_stream_4,         \
        name##_stream_long;                                                                        \
    static panel_unpack name##_unpack_slab;                                                        \
    static void name##_pack(const acts *a, size_t col, size_t n_cols, size_t block0,               \
                            size_t n_blocks, void *cols) {                                         \
        panel_pack_any##dim(name##_traits, a, col, n_cols, block0, n_blocks, cols);                \
    }                                                                                              \
    static void name##_dot(const void *slabs, const void *cols, size_t n_cols, size_t n_blocks,    \
                           float *sums, size_t stride) {                                           \
        panel_dot_any##dim(name##_traits, slabs, cols, n_cols, n_blocks, sums, stride);            \
    }                                                                                              \
    void STEP_NAME(name)(const product *p) {                                                       \
        const bool in_int16 = dot_is_signed(name##_traits);                                        \
        const tile_quant q = {                                                                     \
            .block_dim = dim,                                                                      \
            .block_bytes = sizeof(block_##name),                                                   \
            .few_cols = in_int16 ? 6 * TILE_COLS : FEWEST_FEW,                                     \
            .slab_bytes = in_int16 ? sizeof(tile_int16) : PANEL_DIM / dim * sizeof(tile##dim),     \
            .col_bytes = in_int16 ? sizeof(col_int16) : sizeof(col##dim),                          \
            .stream = {name##_stream_1, name##_stream_2, name##_stream_3, name##_stream_4},        \
            .stream_long = name##_stream_long,                                                     \
            .l1_slab = dim == 32 ? PANEL_L1_SLAB_32 : PANEL_L1_SLAB_256,                           \
            .unpack = name##_unpack_slab,                                                          \
            .pack = name##_pack,                                                                   \
            .dot = name##_dot,                                                                     \
        };                                                                                         \
        tile_matmul(&q, p);                                                                        \
    }

#define PANEL_STREAM(name, dim, suffix, n_cols, is_long)                                           \
    static void name##_stream_##suffix(tile_rows rows, const uint8_t *ahead, const acts *a,        \
                                       size_t col, float out[TILE_COLS][TILE_ROWS]) {              \
        const acts copy = *a; /* which no store through a float pointer can change */              \
        float sums[TILE_COLS][TILE_ROWS] = {{0}};                                                  \
        for (size_t b = 0; b < copy.n / dim; b++) {                                                \
            const size_t at = b * sizeof(block_##name);                                            \
            name##_dot_block(n_cols, rows, at, is_long, ahead + at * TILE_ROWS,                    \
                             dot_columns_at(&copy, dim, col, b), sums);                            \
        }                                                                                          \
        memcpy(out, sums, sizeof sums);                                                            \
    }
#define PANEL_STREAMS(name, dim)                                                                   \
    PANEL_STREAM(name, dim, 1, 1, false)                                                           \
    PANEL_STREAM(name, dim, 2, 2, false)                                                           \
    PANEL_STREAM(name, dim, 3, 3, false)                                                           \
    PANEL_STREAM(name, dim, 4, 4, false)                                                           \
    PANEL_STREAM(name, dim, long, 1, true)

/* clang-format on */

#endif
