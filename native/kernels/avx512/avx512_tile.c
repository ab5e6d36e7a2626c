/* avx512_tile: walks a matrix product tile by tile; the same loops for every quant.
 *
 * Rows are unpacked into scratch, a group of slabs and a span of blocks at a time, and met by all
 * columns there. Few columns: one slab and a span that stays in L1, so that the walk follows
 * memory and the tiles are no more than registers spilt. Many columns: a group's tiles stay in L2,
 * the values of six columns in L1, and each six columns meet the whole group before the next six.
 * Sums rest in y between spans.
 */
#include "kernels/avx512/avx512_tile.h"

#include <assert.h>

#include "kernels/kernels.h"

enum {
    FEW_COLS = TILE_COLS,       /* up to here: one slab at a time */
    FEW_SPAN_BYTES = 12 * 1024, /* of one slab's tiles: a part of L1 */
    SPAN_BYTES = 48 * 1024,     /* of one slab's tiles: about 2,048 values */
    GROUP_BYTES = 256 * 1024,   /* of a group's tiles: a part of L2 */
    TAIL_BYTES = 64 * 1024,     /* of a span of 16 rows as they lie in the file */
};

static_assert(GROUP_BYTES + TAIL_BYTES <= (int)KERNELS_SCRATCH_BYTES, "both fit scratch");
static_assert((int)TAIL_BYTES > (int)SPAN_BYTES, "no block is larger than its tile");

/* One matrix product on its way through avx512_tile_matmul. */
typedef struct walk {
    const tile_quant *q;
    const uint8_t *rows;
    size_t row_bytes, n_rows;
    const acts *a;
    size_t col0, n_cols;
    float *y; /* [n_cols][y_stride] */
    size_t y_stride;
    uint8_t *tiles;    /* [slab][span_blocks] */
    uint8_t *tail;     /* copies of the last rows' blocks */
    size_t slab_bytes; /* of a span of one slab */
} walk;

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

static size_t clamp(size_t x, size_t low, size_t high) { return x < low ? low : smaller(x, high); }

/* Unpacks blocks [block0, block0 + n_blocks) of the 16 rows from row0. Rows that are not there are
 * read as zeros from a copy. */
static void unpack_slab(const walk *k, size_t row0, size_t block0, size_t n_blocks,
                        const uint8_t *ahead, void *tiles) {
    tile_rows rows = {k->rows + row0 * k->row_bytes + block0 * k->q->block_bytes, k->row_bytes};
    size_t n_rows = smaller(TILE_ROWS, k->n_rows - row0);
    if (n_rows < TILE_ROWS) {
        size_t n_bytes = n_blocks * k->q->block_bytes;
        memset(k->tail, 0, TILE_ROWS * n_bytes);
        for (size_t r = 0; r < n_rows; r++) {
            memcpy(k->tail + r * n_bytes, rows.first + r * rows.stride, n_bytes);
        }
        rows = (tile_rows){k->tail, n_bytes};
        ahead = NULL;
    }
    k->q->unpack(rows, n_blocks, ahead, tiles);
}

/* One or two slabs with up to TILE_COLS columns. The dot adds to y in place where all its rows are
 * there, else to a copy. */
static void dot_tiles(const walk *k, size_t n_slabs, const void *const tiles[TILE_SLABS],
                      size_t row0, size_t col, size_t n_cols, size_t block0, size_t n_blocks) {
    tile_dot *dot = (*k->q->dots)[n_slabs - 1][n_cols - 1];
    size_t n_rows = smaller(n_slabs * TILE_ROWS, k->n_rows - row0);
    float *y = k->y + col * k->y_stride + row0;
    if (n_rows == n_slabs * TILE_ROWS) {
        dot(tiles, k->q->zero, block0, n_blocks, k->a, k->col0 + col, y, k->y_stride);
        return;
    }
    float copy[TILE_COLS][TILE_SLABS * TILE_ROWS] = {{0}};
    for (size_t c = 0; c < n_cols; c++) {
        memcpy(copy[c], y + c * k->y_stride, n_rows * sizeof(float));
    }
    dot(tiles, k->q->zero, block0, n_blocks, k->a, k->col0 + col, copy[0], TILE_SLABS * TILE_ROWS);
    for (size_t c = 0; c < n_cols; c++) {
        memcpy(y + c * k->y_stride, copy[c], n_rows * sizeof(float));
    }
}

/* A span of one group of slabs with all columns. */
static void dot_group(const walk *k, size_t row0, size_t n_rows, size_t block0, size_t n_blocks) {
    for (size_t c = 0; c < k->n_cols; c += TILE_COLS) {
        size_t n_cols = smaller(TILE_COLS, k->n_cols - c);
        for (size_t r = 0; r < n_rows; r += TILE_SLABS * TILE_ROWS) {
            size_t n_slabs = n_rows - r > TILE_ROWS ? 2 : 1;
            const uint8_t *first = k->tiles + r / TILE_ROWS * k->slab_bytes;
            const void *const tiles[TILE_SLABS] = {first, first + k->slab_bytes};
            dot_tiles(k, n_slabs, tiles, row0 + r, c, n_cols, block0, n_blocks);
        }
    }
}

static void walk_few_columns(walk *k, size_t n_blocks) {
    size_t span = clamp(FEW_SPAN_BYTES / k->q->tile_bytes, 1, n_blocks);
    k->slab_bytes = span * k->q->tile_bytes;
    for (size_t row0 = 0; row0 < k->n_rows; row0 += TILE_ROWS) {
        size_t n_rows = smaller(TILE_ROWS, k->n_rows - row0);
        /* The next slab's bytes are fetched in the order they lie in, not row by row. */
        const uint8_t *ahead = k->rows + (row0 + TILE_ROWS) * k->row_bytes;
        for (size_t b = 0; b < n_blocks; b += span) {
            size_t n = smaller(span, n_blocks - b);
            unpack_slab(k, row0, b, n, ahead + b * TILE_ROWS * k->q->block_bytes, k->tiles);
            dot_group(k, row0, n_rows, b, n);
        }
    }
}

static void walk_many_columns(walk *k, size_t n_blocks) {
    size_t span = clamp(SPAN_BYTES / k->q->tile_bytes, 1, n_blocks);
    k->slab_bytes = span * k->q->tile_bytes;
    size_t group = GROUP_BYTES / k->slab_bytes / TILE_SLABS * TILE_SLABS * TILE_ROWS;
    for (size_t row0 = 0; row0 < k->n_rows; row0 += group) {
        size_t n_rows = smaller(group, k->n_rows - row0);
        for (size_t b = 0; b < n_blocks; b += span) {
            size_t n = smaller(span, n_blocks - b);
            for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
                unpack_slab(k, row0 + r, b, n, NULL, k->tiles + r / TILE_ROWS * k->slab_bytes);
            }
            dot_group(k, row0, n_rows, b, n);
        }
    }
}

void avx512_tile_matmul(const tile_quant *q, const void *rows, size_t row_bytes, size_t n_rows,
                        const acts *a, size_t col0, size_t n_cols, float *y, size_t y_stride,
                        void *scratch) {
    walk k = {.q = q,
              .rows = rows,
              .row_bytes = row_bytes,
              .n_rows = n_rows,
              .a = a,
              .col0 = col0,
              .n_cols = n_cols,
              .y = y,
              .y_stride = y_stride,
              .tiles = scratch,
              .tail = (uint8_t *)scratch + GROUP_BYTES};
    size_t n_blocks = a->n / q->block_dim;
    for (size_t c = 0; c < n_cols; c++) memset(y + c * y_stride, 0, n_rows * sizeof *y);
    if (n_cols <= FEW_COLS) {
        walk_few_columns(&k, n_blocks);
    } else {
        walk_many_columns(&k, n_blocks);
    }
}
