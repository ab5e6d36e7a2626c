/* avx512_tile: walks a matrix product tile by tile; the same loops for every quant.
 *
 * The tiles of one or two slabs and a short span of blocks stay in L1 while all columns pass them;
 * the columns' blocks stream past from L2, where the next rows of a group find them again. Sums
 * rest in scratch, column by column, until the last span. With few columns a group is one slab, so
 * that the walk follows memory.
 */
#include "kernels/avx512/avx512_tile.h"

#include <assert.h>

#include "kernels/kernels.h"

enum {
    FEW_COLS = 16,    /* up to here: one slab at a time */
    GROUP_ROWS = 128, /* rows that share a span of the columns while it is in L2 */
    TILES_BYTES = TILE_SLABS * TILE_SPAN_BYTES,
    SUMS_BYTES = KERNELS_SCRATCH_BYTES - TILES_BYTES - TILE_SPAN_BYTES,
    PASS_COLS = SUMS_BYTES / (GROUP_ROWS * (int)sizeof(float)),
};

static_assert(sizeof(tile256) <= (int)TILE_SPAN_BYTES, "a span holds a block");

/* One matrix product on its way through avx512_tile_matmul. */
typedef struct walk {
    const tile_quant *q;
    const uint8_t *rows;
    size_t row_bytes, n_rows;
    const acts *a;
    size_t col0, n_cols;
    float *y; /* [n_cols][y_stride] */
    size_t y_stride;
    size_t n_blocks; /* of a row */
    size_t n_slabs;  /* that a dot takes */
    uint8_t *tiles;  /* [n_slabs][TILE_SPAN_BYTES] */
    uint8_t *tail;   /* copies of the last rows' blocks */
    float *sums;     /* [slabs of a group / n_slabs][columns of a pass][rows of n_slabs] */
} walk;

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* Unpacks blocks [block0, block0 + n_blocks) of the 16 rows from row0. Rows that are not there are
 * read as zeros from a copy. What comes next is fetched meanwhile: with few columns the next slab,
 * in the order it lies in; else the rows' next blocks. */
static void unpack_slab(const walk *k, size_t row0, size_t block0, size_t n_blocks, void *tiles) {
    const size_t n_bytes = n_blocks * k->q->block_bytes;
    const size_t n_rows = smaller(TILE_ROWS, k->n_rows - row0);
    tile_rows rows = {k->rows + row0 * k->row_bytes + block0 * k->q->block_bytes, k->row_bytes};
    if (n_rows < TILE_ROWS) {
        memset(k->tail, 0, TILE_ROWS * n_bytes);
        for (size_t r = 0; r < n_rows; r++) {
            memcpy(k->tail + r * n_bytes, rows.first + r * rows.stride, n_bytes);
        }
        k->q->unpack((tile_rows){k->tail, n_bytes}, n_blocks, NULL, tiles);
        return;
    }
    const uint8_t *ahead = NULL;
    if (k->n_slabs == 1) {
        ahead = k->rows + (row0 + TILE_ROWS) * k->row_bytes;
        ahead += block0 * TILE_ROWS * k->q->block_bytes;
    } else {
        for (size_t r = 0; r < TILE_ROWS; r++) {
            tile_prefetch(rows.first + r * rows.stride + n_bytes, n_bytes);
        }
    }
    k->q->unpack(rows, n_blocks, ahead, tiles);
}

/* A span of the rows from row0, at most n_slabs slabs, with columns [col, col + n_cols). Sums come
 * from and go to scratch, but for the first span and the last, which leaves them in y. */
static void dot_span(const walk *k, size_t row0, size_t col, size_t n_cols, size_t block0,
                     size_t n_blocks, float *rest) {
    const size_t n_rows = smaller(k->n_slabs * TILE_ROWS, k->n_rows - row0);
    const size_t n_slabs = (n_rows + TILE_ROWS - 1) / TILE_ROWS, stride = n_slabs * TILE_ROWS;
    const bool is_first = block0 == 0, is_last = block0 + n_blocks == k->n_blocks;
    for (size_t h = 0; h < n_slabs; h++) {
        unpack_slab(k, row0 + h * TILE_ROWS, block0, n_blocks, k->tiles + h * TILE_SPAN_BYTES);
    }
    for (size_t c = 0; c < n_cols; c += TILE_COLS) {
        const size_t n = smaller(TILE_COLS, n_cols - c);
        float *const y = k->y + (col + c) * k->y_stride + row0, *const sums = rest + c * stride;
        const bool in_place = is_last && n_rows == stride;
        (*k->q->dots)[n_slabs - 1][n - 1](
            k->tiles, k->q->zero, block0, n_blocks, k->a, k->col0 + col + c,
            (tile_sums){.in = is_first ? NULL : sums,
                        .in_stride = stride,
                        .out = in_place ? y : sums,
                        .out_stride = in_place ? k->y_stride : stride});
        for (size_t i = 0; i < n && is_last && !in_place; i++) {
            memcpy(y + i * k->y_stride, sums + i * stride, n_rows * sizeof(float));
        }
    }
}

/* A group of rows with the columns of one pass. */
static void dot_group(const walk *k, size_t row0, size_t n_rows, size_t col, size_t n_cols) {
    const size_t span = TILE_SPAN_BYTES / k->q->tile_bytes;
    for (size_t b = 0; b < k->n_blocks; b += span) {
        for (size_t r = 0; r < n_rows; r += k->n_slabs * TILE_ROWS) {
            dot_span(k, row0 + r, col, n_cols, b, smaller(span, k->n_blocks - b),
                     k->sums + r * n_cols);
        }
    }
}

void avx512_tile_matmul(const tile_quant *q, const void *rows, size_t row_bytes, size_t n_rows,
                        const acts *a, size_t col0, size_t n_cols, float *y, size_t y_stride,
                        void *scratch) {
    const bool few = n_cols <= FEW_COLS;
    const walk k = {.q = q,
                    .rows = rows,
                    .row_bytes = row_bytes,
                    .n_rows = n_rows,
                    .a = a,
                    .col0 = col0,
                    .n_cols = n_cols,
                    .y = y,
                    .y_stride = y_stride,
                    .n_blocks = a->n / q->block_dim,
                    .n_slabs = few ? 1 : TILE_SLABS,
                    .tiles = scratch,
                    .tail = (uint8_t *)scratch + TILES_BYTES,
                    .sums = (float *)((uint8_t *)scratch + TILES_BYTES + TILE_SPAN_BYTES)};
    const size_t group = few ? TILE_ROWS : GROUP_ROWS;
    for (size_t c = 0; c < n_cols; c += PASS_COLS) {
        for (size_t r = 0; r < n_rows; r += group) {
            dot_group(&k, r, smaller(group, n_rows - r), c, smaller(PASS_COLS, n_cols - c));
        }
    }
}
