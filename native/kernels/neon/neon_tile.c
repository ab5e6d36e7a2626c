/* neon_tile: walks a matrix product slab by slab; the same loops for every quant and every set of
 * NEON kernels.
 *
 * Few columns: each slab is streamed from memory, tiles never leave L1. Many columns: rows are
 * unpacked into scratch, a group of slabs and a span of blocks at a time; the group's tiles stay in
 * L2, those of a slab in L1, while the columns pass four at a time. Sums rest in y between spans.
 */
#include "kernels/neon/neon_tile.h"

#include <assert.h>

#include "kernels/neon/neon_kernels.h"

enum {
    FEW_COLS = 2 * TILE_COLS, /* up to here unpacking twice is cheaper than storing tiles */
    SPAN_BYTES = 16 * 1024,   /* of one slab's tiles: with the columns' values a part of L1 */
    GROUP_BYTES = 192 * 1024, /* of a group's tiles: a part of L2 */
    COLS_BYTES = 64 * 1024,   /* of the columns' values that pass before the next slab */
};

static_assert((int)GROUP_BYTES <= (int)KERNELS_SCRATCH_BYTES, "a group fits scratch");

/* One matrix product on its way through neon_tile_matmul. */
typedef struct walk {
    const tile_quant *q;
    const product *p;
    uint8_t *tiles;    /* [slab][span_blocks] */
    size_t slab_bytes; /* of a span of one slab */
} walk;

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

static size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }

/* The 8 rows from row0 at their block0; rows that are not there repeat the last one. */
static void find_rows(const walk *k, size_t row0, size_t block0, const uint8_t *row[TILE_ROWS]) {
    for (size_t r = 0; r < TILE_ROWS; r++) {
        size_t i = smaller(row0 + r, k->p->n_rows - 1);
        row[r] = k->p->rows + i * k->p->row_bytes + block0 * k->q->block_bytes;
    }
}

/* A slab with up to TILE_COLS columns. The dot adds to y in place where all its rows are there,
 * else to a copy. */
static void dot_tiles(const walk *k, const void *tiles, size_t row0, size_t col, size_t n_cols,
                      size_t block0, size_t n_blocks) {
    tile_dot *dot = k->q->dot[n_cols - 1];
    size_t n_rows = smaller(TILE_ROWS, k->p->n_rows - row0);
    float *y = k->p->y + col * k->p->y_stride + row0;
    if (n_rows == TILE_ROWS) {
        dot(tiles, block0, n_blocks, k->p->a, k->p->col0 + col, y, k->p->y_stride);
        return;
    }
    float copy[TILE_COLS][TILE_ROWS] = {{0}};
    for (size_t c = 0; c < n_cols; c++) {
        memcpy(copy[c], y + c * k->p->y_stride, n_rows * sizeof(float));
    }
    dot(tiles, block0, n_blocks, k->p->a, k->p->col0 + col, copy[0], TILE_ROWS);
    for (size_t c = 0; c < n_cols; c++) {
        memcpy(y + c * k->p->y_stride, copy[c], n_rows * sizeof(float));
    }
}

/* A span of one group of rows with columns [col, end). */
static void dot_group(const walk *k, size_t row0, size_t n_rows, size_t col, size_t end,
                      size_t block0, size_t n_blocks) {
    for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
        const uint8_t *tiles = k->tiles + r / TILE_ROWS * k->slab_bytes;
        for (size_t c = col; c < end; c += TILE_COLS) {
            dot_tiles(k, tiles, row0 + r, c, smaller(TILE_COLS, end - c), block0, n_blocks);
        }
    }
}

static void walk_few_columns(const walk *k) {
    for (size_t row0 = 0; row0 < k->p->n_rows; row0 += TILE_ROWS) {
        const uint8_t *row[TILE_ROWS];
        size_t n_rows = smaller(TILE_ROWS, k->p->n_rows - row0);
        find_rows(k, row0, 0, row);
        /* The next slab's bytes are fetched in the order they lie in, not row by row. */
        const uint8_t *ahead = row[0] + TILE_ROWS * k->p->row_bytes;
        for (size_t col = 0; col < k->p->n_cols; col += TILE_COLS) {
            size_t n_cols = smaller(TILE_COLS, k->p->n_cols - col);
            float out[TILE_COLS][TILE_ROWS];
            k->q->stream[n_cols - 1](row, ahead, k->p->a, k->p->col0 + col, out);
            for (size_t c = 0; c < n_cols; c++) {
                float *y = k->p->y + (col + c) * k->p->y_stride + row0;
                memcpy(y, out[c], n_rows * sizeof(float));
            }
        }
    }
}

static void walk_many_columns(walk *k) {
    size_t n_blocks = k->p->a->n / k->q->block_dim;
    size_t n_spans = ceil_div(n_blocks, SPAN_BYTES / k->q->tile_bytes);
    size_t span = ceil_div(n_blocks, n_spans);
    k->slab_bytes = span * k->q->tile_bytes;
    size_t group = GROUP_BYTES / k->slab_bytes * TILE_ROWS;
    size_t pass = COLS_BYTES / (span * k->q->block_dim) / TILE_COLS * TILE_COLS;
    for (size_t c = 0; c < k->p->n_cols; c++) {
        memset(k->p->y + c * k->p->y_stride, 0, k->p->n_rows * sizeof *k->p->y);
    }
    for (size_t row0 = 0; row0 < k->p->n_rows; row0 += group) {
        size_t n_rows = smaller(group, k->p->n_rows - row0);
        for (size_t b = 0; b < n_blocks; b += span) {
            size_t n = smaller(span, n_blocks - b);
            for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
                const uint8_t *row[TILE_ROWS];
                find_rows(k, row0 + r, b, row);
                k->q->unpack(row, n, k->tiles + r / TILE_ROWS * k->slab_bytes);
            }
            for (size_t c = 0; c < k->p->n_cols; c += pass) {
                dot_group(k, row0, n_rows, c, smaller(c + pass, k->p->n_cols), b, n);
            }
        }
    }
}

size_t neon_matmul_scratch(quant q, size_t n, size_t n_rows, size_t n_cols) {
    (void)n, (void)n_rows;
    const acts_kind kind = quant_table[q].acts;
    return kind == ACTS_F32 || kind == ACTS_BF16 || n_cols <= FEW_COLS ? 0 : GROUP_BYTES;
}

void neon_tile_matmul(const tile_quant *q, const product *p) {
    walk k = {.q = q, .p = p, .tiles = p->scratch};
    assert(p->a->n >= q->block_dim && p->a->n % q->block_dim == 0);
    if (!p->n_rows || !p->n_cols) return;
    if (p->n_cols <= FEW_COLS) {
        walk_few_columns(&k);
    } else {
        walk_many_columns(&k);
    }
}
