/* avx2_dot: the dots of a few columns with tiles as they are unpacked.
 *
 * Codes are unsigned with a zero point, activations signed. With AVX2, sums of products stay in
 * int16 for as many steps as cannot overflow (|a| <= 127; a step adds at most 2 * code * 127):
 *
 *   4 bits  8 steps  30,480      5 bits  4 steps  31,496      6 bits  2 steps  32,004
 *
 * Codes of 8 bits are signed and take one step: |w| is the unsigned side and the sign goes to the
 * activation, whose magnitude is at most 127 and so survives it; 2 * 128 * 127 = 32,512.
 *
 * The zero point is taken back from the exact sums of the activations. All of it is integer
 * arithmetic (or floats below 2^24), so only the last lines of each function, one per block, have
 * an order, and there every row and column is its own chain.
 */
#ifndef LL_KERNELS_AVX2_DOT_H
#define LL_KERNELS_AVX2_DOT_H

#include <stdbool.h>

#include "kernels/avx2/avx2_step.h"
#include "kernels/avx2/avx2_tile.h"

/* How a format's codes are summed. */
typedef struct dot_traits {
    int largest; /* code; 128: signed ones of 8 bits, where STEP_SIGNED_ZERO is none */
    int zero;    /* subtracted from every code; superblocks have it in their bias */
    bool has_min;
    int n_sub; /* sub-blocks of a superblock: 8 or 16 */
} dot_traits;

TILE_INLINE bool dot_is_signed(dot_traits f) { return !STEP_IS_WIDE && f.largest == 128; }

/* Signed bytes as codes. */
TILE_INLINE __m256i dot_from_signed(__m256i x) {
    return STEP_SIGNED_ZERO ? _mm256_xor_si256(x, _mm256_set1_epi8((char)0x80)) : x;
}

/* Keeps x where it is in the order of things: gcc would otherwise turn a chain of sums into a tree,
 * hold all its terms at once and spill them, at half the speed. */
#define DOT_FENCE(x) __asm__("" : "+x"(x))

/* sums[c] = scale * dot over n steps of 4 values, for w and the bytes at q[c]; `add`: added. */
TILE_INLINE void dot_sub(dot_traits f, int n, int n_cols, const __m256i *w,
                         const int8_t *const q[TILE_COLS], const __m256i *scale, bool add,
                         __m256i sums[TILE_COLS]) {
    const int run = step_run(f.largest, n);
#pragma GCC unroll 8
    for (int s0 = 0; s0 < n; s0 += run) {
        __m256i runs[TILE_COLS];
#pragma GCC unroll 8
        for (int s = s0; s < s0 + run; s++) {
            __m256i u = dot_is_signed(f) ? _mm256_abs_epi8(w[s]) : w[s];
#pragma GCC unroll 4
            for (int c = 0; c < n_cols; c++) {
                __m256i a = tile_broadcast(q[c] + 4 * s);
                if (dot_is_signed(f)) a = _mm256_sign_epi8(a, w[s]);
                runs[c] = s == s0 ? step_first(u, a) : step_next(runs[c], u, a);
                DOT_FENCE(runs[c]);
            }
        }
#pragma GCC unroll 4
        for (int c = 0; c < n_cols; c++) {
            __m256i p = scale ? step_end(runs[c], *scale) : step_end_unscaled(runs[c]);
            sums[c] = s0 || add ? _mm256_add_epi32(sums[c], p) : p;
            DOT_FENCE(sums[c]);
        }
    }
}

/* The sums of a superblock's activations by sub-block, from those of 16. */
TILE_INLINE void dot_sub_sums(int n_sub, const int16_t from[16], int16_t to[16]) {
    __m256i sums = _mm256_loadu_si256((const void *)from);
    if (n_sub == 8) {
        sums = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
        sums = _mm256_packs_epi32(sums, sums); /* 0 to 3 and 4 to 7, each twice */
        sums = _mm256_permute4x64_epi64(sums, 0x08);
    }
    _mm256_storeu_si256((void *)to, sums);
}

/* Where the columns' values, scales and sums of one block begin; the next column's lie behind.
 * sums are f32 (blocks of 32) or int16 (superblocks). */
typedef struct dot_columns {
    const int8_t *q;
    const float *d;
    const void *sums;
} dot_columns;

TILE_INLINE dot_columns dot_columns_at(const acts *a, size_t dim, size_t col, size_t block) {
    size_t i = acts_block(a, block, col);
    const void *sums = dim == 32 ? (const void *)(a->sum + i) : (const void *)(a->sums + 16 * i);
    return (dot_columns){a->q + i * dim, a->d + i, sums};
}

/* One block of 32. */
TILE_INLINE void dot32(dot_traits f, int n_cols, const tile32 *tile, dot_columns a,
                       float out[TILE_COLS][TILE_ROWS]) {
    const float *a_sums = a.sums;
    const int8_t *q[TILE_COLS];
    __m256i sums[TILE_COLS];
    for (int c = 0; c < n_cols; c++) q[c] = a.q + (size_t)c * 32;
    dot_sub(f, 8, n_cols, tile->w, q, NULL, false, sums);
#pragma GCC unroll 4
    for (int c = 0; c < n_cols; c++) {
        __m256 a_sum = _mm256_broadcast_ss(a_sums + (size_t)c);
        __m256 a_d = _mm256_broadcast_ss(a.d + (size_t)c);
        __m256 t = _mm256_cvtepi32_ps(sums[c]);
        if (f.zero) t = _mm256_fnmadd_ps(_mm256_set1_ps((float)f.zero), a_sum, t);
        t = _mm256_mul_ps(t, tile->d);
        if (f.has_min) t = _mm256_fmadd_ps(a_sum, tile->m, t);
        _mm256_storeu_ps(out[c], _mm256_fmadd_ps(t, a_d, _mm256_loadu_ps(out[c])));
    }
}

/* A quarter of a superblock's codes, as a format unpacks them at once: w[k] holds four values of
 * all rows, and sub-block i of a quarter is whole. Sub-blocks of 32 follow each other; those of 16
 * are 16 of the 32 bytes of a half, and of four planes of bits. */
typedef void dot_codes(tile_rows rows, size_t at, int quarter, __m256i w[16]);
typedef void dot_header(tile_rows rows, size_t at, tile256 *t);

enum { DOT_QUARTERS = 4 };

TILE_INLINE int dot_sub_block(int n_sub, int quarter, int i) {
    return n_sub == 8 ? 2 * quarter + i : quarter / 2 * 8 + 2 * i + quarter % 2;
}

/* A quarter of what is fetched while a superblock of 8 rows is computed, as all at once would hold
 * up the loads behind it: that many bytes of the next slab and, where long ones only go to L2, the
 * next superblock of two rows from there. */
TILE_INLINE void fetch_quarter(bool is_long, tile_rows rows, size_t at, int quarter,
                               const uint8_t *ahead, size_t block_bytes) {
    enum { N = TILE_ROWS / DOT_QUARTERS };
    const size_t row = (size_t)quarter * N;
    if (!is_long) {
        tile_prefetch(ahead + row * block_bytes, N * block_bytes);
        return;
    }
    tile_prefetch_l2(ahead + row * block_bytes, N * block_bytes);
    for (size_t r = row; r < row + N; r++) {
        tile_prefetch(rows.first + r * rows.stride + at + block_bytes, block_bytes);
    }
}

/* One superblock, whose codes never leave the registers if they fit. */
TILE_INLINE void dot256(dot_traits f, int n_cols, dot_header *header, dot_codes *codes,
                        tile_rows rows, size_t at, bool is_long, const uint8_t *ahead,
                        size_t block_bytes, dot_columns a, float out[TILE_COLS][TILE_ROWS]) {
    const int n_steps = 64 / f.n_sub;
    tile256 tile;
    __m256i sums[TILE_COLS], bias[TILE_COLS];
    int16_t groups[TILE_COLS][16];
    header(rows, at, &tile);
#pragma GCC unroll 4
    for (int c = 0; c < n_cols; c++) {
        dot_sub_sums(f.n_sub, (const int16_t *)a.sums + (size_t)c * 16, groups[c]);
        sums[c] = bias[c] = _mm256_setzero_si256();
    }
#pragma GCC unroll 8
    for (int g = 0; g < f.n_sub / 2; g++) {
        if (!f.has_min && !f.zero) break;
#pragma GCC unroll 4
        for (int c = 0; c < n_cols; c++) {
            __m256i p = _mm256_madd_epi16(tile.bias[g], tile_broadcast(groups[c] + 2 * g));
            bias[c] = _mm256_add_epi32(bias[c], p);
            DOT_FENCE(bias[c]);
        }
    }
#pragma GCC unroll 1
    for (int quarter = 0; quarter < DOT_QUARTERS; quarter++) {
        __m256i w[16];
        codes(rows, at, quarter, w);
        fetch_quarter(is_long, rows, at, quarter, ahead, block_bytes);
#pragma GCC unroll 4
        for (int i = 0; i < f.n_sub / DOT_QUARTERS; i++) {
            const int j = dot_sub_block(f.n_sub, quarter, i);
            const int8_t *q[TILE_COLS];
            for (int c = 0; c < n_cols; c++) {
                q[c] = a.q + (size_t)c * 256 + 4 * j * n_steps;
            }
            dot_sub(f, n_steps, n_cols, w + i * n_steps, q, tile.scale + j, true, sums);
        }
    }
#pragma GCC unroll 4
    for (int c = 0; c < n_cols; c++) {
        __m256 a_d = _mm256_broadcast_ss(a.d + (size_t)c);
        __m256i s = f.zero ? _mm256_sub_epi32(sums[c], bias[c]) : sums[c];
        __m256 t = _mm256_mul_ps(_mm256_cvtepi32_ps(s), tile.d);
        if (f.has_min) t = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(bias[c]), tile.dmin, t);
        _mm256_storeu_ps(out[c], _mm256_fmadd_ps(t, a_d, _mm256_loadu_ps(out[c])));
    }
}

/* Bytes i and j of every dword as the high halves of two int16: << 8, sign kept. */
TILE_INLINE __m256i dot_byte_pair(__m256i x, int i, int j) {
    const int pair = (int)0x00800080 | i << 8 | (int)((unsigned)j << 24);
    return _mm256_shuffle_epi8(x, step_select(pair, 0x04000400));
}

#endif
