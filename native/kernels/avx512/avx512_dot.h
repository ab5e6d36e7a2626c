/* avx512_dot: the dots of tiles with columns, by the class of a format's block. */
#ifndef LL_KERNELS_AVX512_DOT_H
#define LL_KERNELS_AVX512_DOT_H

#include "kernels/avx512/avx512_tile.h"

/* Blocks of 32: codes with a zero point, or with a minimum. */
extern tile_dots avx512_dot32_zero, avx512_dot32_min;

/* Superblocks: sub-blocks of 32 or 16, codes with a zero point (in the tile's bias) or with
 * minimums. */
extern tile_dots avx512_dot256_8_zero, avx512_dot256_8_min, avx512_dot256_16_zero,
    avx512_dot256_16_min;

/* Four activations in every lane. The fence keeps it in a register that both slabs share; gcc
 * would otherwise read it from memory for each. */
TILE_INLINE __m512i dot_broadcast(const void *p, int n_slabs) {
    int32_t x;
    memcpy(&x, p, sizeof x);
    __m512i v = _mm512_set1_epi32(x);
    if (n_slabs > 1) __asm__("" : "+v"(v));
    return v;
}

/* All twelve dots of a class. DOT(class, slabs, columns) defines one, class_slabs_columns. */
#define DOT_TABLE(class, DOT)                                                                      \
    DOT(class, 1, 1)                                                                               \
    DOT(class, 1, 2)                                                                               \
    DOT(class, 1, 3)                                                                               \
    DOT(class, 1, 4)                                                                               \
    DOT(class, 1, 5)                                                                               \
    DOT(class, 1, 6)                                                                               \
    DOT(class, 2, 1)                                                                               \
    DOT(class, 2, 2)                                                                               \
    DOT(class, 2, 3)                                                                               \
    DOT(class, 2, 4)                                                                               \
    DOT(class, 2, 5)                                                                               \
    DOT(class, 2, 6)                                                                               \
    tile_dots avx512_##class = {                                                                   \
        {class##_1_1, class##_1_2, class##_1_3, class##_1_4, class##_1_5, class##_1_6},            \
        {class##_2_1, class##_2_2, class##_2_3, class##_2_4, class##_2_5, class##_2_6},            \
    };

/* The loop over a slab's blocks and the matmul_kernel of one format; stem_unpack unpacks one block
 * of 16 rows into one tile, `class` are its dots and `zero_point` its codes' zero point, which for
 * superblocks lies in the tiles. */
#define DOT_MATMUL(stem, class, dim, tile, zero_point)                                             \
    static void stem##_unpack_slab(tile_rows rows, size_t n_blocks, const uint8_t *ahead,          \
                                   void *tiles) {                                                  \
        const size_t n_ahead = TILE_ROWS * sizeof(block_##stem);                                   \
        tile *t = tiles;                                                                           \
        for (size_t b = 0; b < n_blocks; b++, t++, rows.first += sizeof(block_##stem)) {           \
            if (ahead) tile_prefetch(ahead + b * n_ahead, n_ahead);                                \
            stem##_unpack(rows, t);                                                                \
        }                                                                                          \
    }                                                                                              \
    void avx512_matmul_##stem(const void *rows, size_t row_bytes, size_t n_rows, const acts *a,    \
                              size_t col0, size_t n_cols, float *y, size_t y_stride,               \
                              void *scratch) {                                                     \
        static const tile_quant quant = {dim,        sizeof(block_##stem), sizeof(tile),           \
                                         zero_point, stem##_unpack_slab,   &avx512_##class};       \
        avx512_tile_matmul(&quant, rows, row_bytes, n_rows, a, col0, n_cols, y, y_stride,          \
                           scratch);                                                               \
    }

#endif
