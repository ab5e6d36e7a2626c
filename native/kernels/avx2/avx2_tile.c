/* avx2_tile: walks a matrix product slab by slab; the same loops for every quant.
 *
 * Few columns: each slab is streamed from memory, tiles never leave registers and L1. Many columns:
 * a span of values at a time is copied from a pass of columns and unpacked from a group of slabs,
 * whose tiles lie in L1 while the columns pass. The sums of the pass lie in scratch, close
 * together, until all spans are in them.
 */
#include "kernels/avx2/avx2_tile.h"

#include <assert.h>
#include <stdbool.h>

enum {
    PASS_COLS = 256, /* their spans and sums are a part of L2 */
    PASS_ROWS = 64,
    COL_BYTES = 576,       /* of a column's span, at most */
    SLAB_BYTES = 5 * 1024, /* of a slab's span, at most */
    COLS_AT = PASS_ROWS * PASS_COLS * (int)sizeof(float),
    SLABS_AT = COLS_AT + PASS_COLS * COL_BYTES,
    COPY_AT = SLABS_AT + PANEL_SLABS * SLAB_BYTES,
    COPY_BYTES = 4 * 1024, /* of a span of 8 rows as they lie in the file, at most */
};

static_assert((int)COPY_AT + (int)COPY_BYTES <= (int)KERNELS_SCRATCH_BYTES, "fits scratch");

/* One matrix product on its way through tile_matmul. */
typedef struct walk {
    const tile_quant *q;
    const product *p;
    uint8_t *scratch; /* sums [PASS_COLS][PASS_ROWS], columns' spans, slabs, a copy of rows */
} walk;

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* Unpacks n_blocks blocks from block0 on of the 8 rows from row0. Where there are fewer, a copy of
 * them is read, the last row repeated. */
static void unpack_slab(const walk *k, size_t row0, size_t block0, size_t n_blocks, void *slab) {
    const tile_quant *q = k->q;
    tile_rows rows = {k->p->rows + row0 * k->p->row_bytes + block0 * q->block_bytes,
                      k->p->row_bytes};
    if (row0 + TILE_ROWS > k->p->n_rows) {
        uint8_t *copy = k->scratch + COPY_AT;
        size_t n_bytes = n_blocks * q->block_bytes, last = k->p->n_rows - 1;
        for (size_t r = 0; r < TILE_ROWS; r++) {
            const uint8_t *row = k->p->rows + smaller(row0 + r, last) * k->p->row_bytes;
            memcpy(copy + r * n_bytes, row + block0 * q->block_bytes, n_bytes);
        }
        rows = (tile_rows){copy, n_bytes};
    }
    q->unpack(rows, n_blocks, slab);
}

/* Rows [row0, row0 + n_rows) with columns [col, col + n_cols): PASS_ROWS and PASS_COLS at most. */
static void walk_pass(const walk *k, size_t row0, size_t n_rows, size_t col, size_t n_cols) {
    const tile_quant *q = k->q;
    const size_t n_blocks = k->p->a->n / q->block_dim, span = PANEL_DIM / q->block_dim;
    float *sums = (float *)(void *)k->scratch;
    uint8_t *cols = k->scratch + COLS_AT, *slabs = k->scratch + SLABS_AT;
    memset(sums, 0, n_cols * PASS_ROWS * sizeof *sums);
    for (size_t b = 0; b < n_blocks; b += span) {
        size_t n = smaller(span, n_blocks - b);
        q->pack(k->p->a, k->p->col0 + col, n_cols, b, n, cols);
        for (size_t r = 0; r < n_rows; r += PANEL_ROWS) {
            for (size_t h = 0; h < PANEL_SLABS; h++) {
                unpack_slab(k, row0 + r + h * TILE_ROWS, b, n, slabs + h * q->slab_bytes);
            }
            q->dot(slabs, cols, n_cols, n, sums + r, PASS_ROWS);
        }
    }
    for (size_t c = 0; c < n_cols; c++) {
        memcpy(k->p->y + (col + c) * k->p->y_stride + row0, sums + c * PASS_ROWS,
               n_rows * sizeof *sums);
    }
}

static void walk_few_columns(const walk *k) {
    size_t row0 = 0;
    for (; row0 + TILE_ROWS <= k->p->n_rows; row0 += TILE_ROWS) {
        tile_rows rows = {k->p->rows + row0 * k->p->row_bytes, k->p->row_bytes};
        /* The next slab's bytes are fetched in the order they lie in, not row by row. */
        const uint8_t *ahead = rows.first + TILE_ROWS * k->p->row_bytes;
        for (size_t col = 0; col < k->p->n_cols; col += TILE_COLS) {
            size_t n_cols = smaller(TILE_COLS, k->p->n_cols - col);
            float out[TILE_COLS][TILE_ROWS];
            bool is_long = k->p->n_cols == 1 && TILE_ROWS * k->p->row_bytes > k->q->l1_slab;
            tile_stream *stream = is_long ? k->q->stream_long : k->q->stream[n_cols - 1];
            stream(rows, ahead, k->p->a, k->p->col0 + col, out);
            for (size_t c = 0; c < n_cols; c++) {
                memcpy(k->p->y + (col + c) * k->p->y_stride + row0, out[c], sizeof out[c]);
            }
        }
    }
    if (row0 < k->p->n_rows) walk_pass(k, row0, k->p->n_rows - row0, 0, k->p->n_cols);
}

static void walk_many_columns(const walk *k) {
    for (size_t row0 = 0; row0 < k->p->n_rows; row0 += PASS_ROWS) {
        size_t n_rows = smaller(PASS_ROWS, k->p->n_rows - row0);
        for (size_t col = 0; col < k->p->n_cols; col += PASS_COLS) {
            walk_pass(k, row0, n_rows, col, smaller(PASS_COLS, k->p->n_cols - col));
        }
    }
}

size_t tile_scratch(size_t n_rows, size_t n_cols) {
    const bool is_streamed = n_cols <= FEWEST_FEW && n_rows % TILE_ROWS == 0;
    return is_streamed ? 0 : (size_t)COPY_AT + COPY_BYTES;
}

void tile_matmul(const tile_quant *q, const product *p) {
    const walk k = {.q = q, .p = p, .scratch = p->scratch};
    assert(p->a->n >= q->block_dim && p->a->n % q->block_dim == 0);
    assert(q->col_bytes <= COL_BYTES && q->slab_bytes <= SLAB_BYTES);
    if (!p->n_rows || !p->n_cols) return;
    if (p->n_cols <= q->few_cols) {
        walk_few_columns(&k);
    } else {
        walk_many_columns(&k);
    }
}
