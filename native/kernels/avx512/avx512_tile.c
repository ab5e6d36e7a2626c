/* avx512_tile: walks a matrix product tile by tile; the same loops for every quant.
 *
 * The tiles of one or two slabs and a short span of blocks stay in L1 while all columns pass them;
 * the columns' blocks stream past from L2, where the next rows of a group find them again. Sums
 * rest in scratch, column by column, until the last span. With few columns all is about memory:
 * rows are read where the processor's own prefetching is at its best, up to eight columns meet the
 * codes in the registers they are unpacked in, and more go by way of tiles.
 */
#include "kernels/avx512/avx512_tile.h"

#include <assert.h>

#include "kernels/kernels.h"

enum {
    FEW_COLS = 16,    /* up to here memory is what counts */
    GROUP_ROWS = 128, /* rows that share a span of the columns while it is in L2 */
    TILES_BYTES = TILE_SLABS * TILE_SPAN_BYTES,
    SUMS_BYTES = KERNELS_SCRATCH_BYTES - TILES_BYTES - TILE_SPAN_BYTES,
    PAGE_BYTES = 4096,
    FEW_SPAN_BYTES = TILE_SPAN_BYTES / 2, /* with few columns the rows themselves are in L1 too */
    PASS_COLS = SUMS_BYTES / (GROUP_ROWS * (int)sizeof(float)),
};

static_assert(sizeof(tile256) <= (int)TILE_SPAN_BYTES, "a span holds a block");

/* One matrix product on its way through avx512_tile_matmul. */
typedef struct walk {
    const tile_quant *q;
    const product *p;
    size_t n_blocks; /* of a row */
    uint8_t *tiles;  /* [n_slabs][TILE_SPAN_BYTES] */
    uint8_t *tail;   /* copies of the last rows' blocks */
    float *sums;     /* [slabs of a group / n_slabs][columns of a pass][rows of n_slabs] */
} walk;

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* Has the rows' next n_bytes fetched while the dots of these compute. */
static void fetch_next(tile_rows rows, size_t n_bytes) {
    for (size_t r = 0; r < TILE_ROWS; r++) {
        tile_prefetch(rows.first + r * rows.stride + n_bytes, n_bytes);
    }
}

/* Unpacks blocks [block0, block0 + n_blocks) of the 16 rows from row0, and has their next blocks
 * fetched. Rows that are not there are read as zeros from a copy. */
static void unpack_slab(const walk *k, size_t row0, size_t block0, size_t n_blocks, void *tiles) {
    const size_t n_bytes = n_blocks * k->q->block_bytes;
    const size_t n_rows = smaller(TILE_ROWS, k->p->n_rows - row0);
    tile_rows rows = {k->p->rows + row0 * k->p->row_bytes + block0 * k->q->block_bytes,
                      k->p->row_bytes};
    fetch_next(rows, n_bytes);
    if (n_rows < TILE_ROWS) {
        memset(k->tail, 0, TILE_ROWS * n_bytes);
        for (size_t r = 0; r < n_rows; r++) {
            memcpy(k->tail + r * n_bytes, rows.first + r * rows.stride, n_bytes);
        }
        rows = (tile_rows){k->tail, n_bytes};
    }
    k->q->unpack(rows, n_blocks, tiles);
}

/* A span of the rows from row0, at most n_slabs slabs, with columns [col, col + n_cols). Sums come
 * from and go to scratch, but for the first span and the last, which leaves them in y. */
static void dot_span(const walk *k, size_t row0, size_t col, size_t n_cols, size_t block0,
                     size_t n_blocks, float *rest) {
    const size_t n_rows = smaller(TILE_SLABS * TILE_ROWS, k->p->n_rows - row0);
    const size_t n_slabs = (n_rows + TILE_ROWS - 1) / TILE_ROWS, stride = n_slabs * TILE_ROWS;
    const bool is_first = block0 == 0, is_last = block0 + n_blocks == k->n_blocks;
    for (size_t h = 0; h < n_slabs; h++) {
        unpack_slab(k, row0 + h * TILE_ROWS, block0, n_blocks, k->tiles + h * TILE_SPAN_BYTES);
    }
    for (size_t c = 0; c < n_cols; c += TILE_COLS) {
        const size_t n = smaller(TILE_COLS, n_cols - c);
        float *const y = k->p->y + (col + c) * k->p->y_stride + row0, *const sums =
                                                                          rest + c * stride;
        const bool in_place = is_last && n_rows == stride;
        (*k->q->dots)[n_slabs - 1][n - 1](
            k->tiles, k->q->zero, block0, n_blocks, k->p->a, k->p->col0 + col + c,
            (tile_sums){.in = is_first ? NULL : sums,
                        .in_stride = stride,
                        .out = in_place ? y : sums,
                        .out_stride = in_place ? k->p->y_stride : stride});
        for (size_t i = 0; i < n && is_last && !in_place; i++) {
            memcpy(y + i * k->p->y_stride, sums + i * stride, n_rows * sizeof(float));
        }
    }
}

/* A group of rows with the columns of one pass. */
static void dot_group(const walk *k, size_t row0, size_t n_rows, size_t col, size_t n_cols) {
    const size_t span = TILE_SPAN_BYTES / k->q->tile_bytes;
    for (size_t b = 0; b < k->n_blocks; b += span) {
        for (size_t r = 0; r < n_rows; r += TILE_SLABS * TILE_ROWS) {
            dot_span(k, row0 + r, col, n_cols, b, smaller(span, k->n_blocks - b),
                     k->sums + r * n_cols);
        }
    }
}

/* How many rows apart the lanes of a slab are: so many that each walks through pages of its own,
 * which is what the processor's own prefetching follows, and where possible not so that they meet
 * in a cache set. 1 where there are too few rows for that. */
static size_t lanes_apart(size_t row_bytes, size_t n_rows) {
    enum { NEAR = 256 };
    const size_t least = (PAGE_BYTES + row_bytes - 1) / row_bytes;
    size_t apart = least;
    while (apart < 2 * least && (apart * row_bytes + NEAR) % PAGE_BYTES < 2 * NEAR) apart++;
    if (apart == 2 * least) apart = least;
    return apart * TILE_ROWS <= n_rows ? apart : 1;
}

/* Few columns: some slabs of rows. Slab s takes rows first + s, first + s + apart, first + s + 2
 * apart …; with rows that lie side by side (apart is 1) it takes those from first + 16 s on. */
typedef struct slab_group {
    size_t first, n_slabs, apart;
    bool is_fetched; /* short rows side by side: the next are fetched in the order they lie in */
} slab_group;

static size_t first_row(slab_group g, size_t s) {
    return g.first + (g.apart == 1 ? s * TILE_ROWS : s);
}

static tile_rows slab_rows(const walk *k, slab_group g, size_t s) {
    return (tile_rows){k->p->rows + first_row(g, s) * k->p->row_bytes, g.apart * k->p->row_bytes};
}

static void store_slab(const walk *k, slab_group g, size_t s, const float *out, size_t stride) {
    for (size_t c = 0; c < k->p->n_cols; c++) {
        float *const y = k->p->y + c * k->p->y_stride + first_row(g, s);
        for (size_t r = 0; r < TILE_ROWS; r++) y[r * g.apart] = out[c * stride + r];
    }
}

/* One slab with up to TILE_STREAM_COLS. */
static void stream_slab(const walk *k, slab_group g, size_t s) {
    float out[TILE_STREAM_COLS][TILE_ROWS];
    const tile_rows rows = slab_rows(k, g, s);
    const uint8_t *ahead = g.is_fetched ? rows.first + TILE_ROWS * k->p->row_bytes : NULL;
    k->q->stream[k->p->n_cols - 1](rows, ahead, k->p->a, k->p->col0, out);
    store_slab(k, g, s, out[0], TILE_ROWS);
}

/* One or two slabs from s on with up to FEW_COLS, by way of tiles. */
static void tile_slabs(const walk *k, slab_group g, size_t s, size_t n_slabs) {
    float out[FEW_COLS][TILE_SLABS * TILE_ROWS];
    const size_t span = FEW_SPAN_BYTES / k->q->tile_bytes, stride = n_slabs * TILE_ROWS;
    const uint8_t *ahead = slab_rows(k, g, s).first + n_slabs * TILE_ROWS * k->p->row_bytes;
    const size_t n_parts = (k->p->n_cols + TILE_COLS - 1) / TILE_COLS;
    const size_t part = (k->p->n_cols + n_parts - 1) / n_parts;
    for (size_t b = 0; b < k->n_blocks; b += span) {
        const size_t n_blocks = smaller(span, k->n_blocks - b);
        const size_t n_bytes = n_blocks * k->q->block_bytes, at = b * k->q->block_bytes;
        for (size_t h = 0; h < n_slabs; h++) {
            tile_rows rows = slab_rows(k, g, s + h);
            rows.first += at;
            if (g.is_fetched) {
                tile_prefetch(ahead, TILE_ROWS * n_bytes);
                ahead += TILE_ROWS * n_bytes;
            } else {
                fetch_next(rows, n_bytes);
            }
            k->q->unpack(rows, n_blocks, k->tiles + h * TILE_SPAN_BYTES);
        }
        for (size_t c = 0; c < k->p->n_cols; c += part) {
            float *const sums = out[0] + c * stride;
            (*k->q->dots)[n_slabs - 1][smaller(part, k->p->n_cols - c) - 1](
                k->tiles, k->q->zero, b, n_blocks, k->p->a, k->p->col0 + c,
                (tile_sums){b ? sums : NULL, sums, stride, stride});
        }
    }
    for (size_t h = 0; h < n_slabs; h++) store_slab(k, g, s + h, out[0] + h * TILE_ROWS, stride);
}

/* Returns the number of rows done; what is no whole slab is left. */
static size_t walk_slabs(const walk *k) {
    size_t row0 = 0;
    while (k->p->n_rows - row0 >= TILE_ROWS) {
        const size_t n_left = (k->p->n_rows - row0) / TILE_ROWS;
        const size_t apart = lanes_apart(k->p->row_bytes, k->p->n_rows - row0);
        const slab_group g = {.first = row0,
                              .n_slabs = apart > 1 ? apart : smaller(TILE_SLABS, n_left),
                              .apart = apart,
                              .is_fetched = apart == 1 && k->p->row_bytes < PAGE_BYTES};
        const size_t step = k->p->n_cols <= TILE_STREAM_COLS ? 1 : TILE_SLABS;
        for (size_t s = 0; s < g.n_slabs; s += step) {
            if (step == 1) {
                stream_slab(k, g, s);
            } else {
                tile_slabs(k, g, s, smaller(step, g.n_slabs - s));
            }
        }
        row0 += g.n_slabs * TILE_ROWS;
    }
    return row0;
}

size_t avx512_tile_scratch(size_t n_rows, size_t n_cols) {
    const size_t rows = (smaller(GROUP_ROWS, n_rows) + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    return TILES_BYTES + TILE_SPAN_BYTES + rows * smaller(PASS_COLS, n_cols) * sizeof(float);
}

void avx512_tile_matmul(const tile_quant *q, const product *p) {
    uint8_t *const scratch = p->scratch;
    const walk k = {.q = q,
                    .p = p,
                    .n_blocks = p->a->n / q->block_dim,
                    .tiles = scratch,
                    .tail = scratch + TILES_BYTES,
                    .sums = (float *)(void *)(scratch + TILES_BYTES + TILE_SPAN_BYTES)};
    const size_t first = p->n_cols <= FEW_COLS ? walk_slabs(&k) : 0;
    for (size_t c = 0; c < p->n_cols; c += PASS_COLS) {
        for (size_t r = first; r < p->n_rows; r += GROUP_ROWS) {
            dot_group(&k, r, smaller(GROUP_ROWS, p->n_rows - r), c,
                      smaller(PASS_COLS, p->n_cols - c));
        }
    }
}
