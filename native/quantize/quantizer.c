/* quantizer: see quantizer.h. */
#include "quantize/quantizer.h"

#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/exact.h"
#include "base/isa.h"
#include "base/system.h"
#include "base/threads.h"
#include "format/quant_blocks.h"

enum {
    CHUNK_VALUES = 64 * 1024, /* of a task, unless a row has more: a few milliseconds */
    SOURCE_BYTES_MOST = 4,    /* of a value */
};

static const double seconds_per_poll = 50e-3;
static const char too_large[] = "row %llu has values too large to be quantized";

struct ll_quantizer {
    threads *pool;
};

/* ---- encoders -------------------------------------------------------------------------------- */

const encode_table *quantizer_encoders(void) {
#if defined(__x86_64__)
    if (isa_has_avx2()) return &encode_table_avx2;
#endif
    return &encode_table_portable;
}

/* Where a block has its f16 numbers. */
typedef struct f16_fields {
    int n;
    size_t offset[2];
} f16_fields;

#define ONE(stem)                                                                                  \
    {                                                                                              \
        1, { offsetof(block_##stem, d) }                                                           \
    }
#define TWO(stem, second)                                                                          \
    {                                                                                              \
        2, { offsetof(block_##stem, d), offsetof(block_##stem, second) }                           \
    }
static const f16_fields fields[QUANT_COUNT] = {
    [QUANT_F16] = {1, {0}},
      [QUANT_Q4_0] = ONE(q4_0),       [QUANT_Q4_1] = TWO(q4_1, m),
    [QUANT_Q5_0] = ONE(q5_0),       [QUANT_Q5_1] = TWO(q5_1, m),    [QUANT_Q8_0] = ONE(q8_0),
    [QUANT_IQ4_NL] = ONE(iq4_nl),   [QUANT_Q2_K] = TWO(q2_k, dmin), [QUANT_Q3_K] = ONE(q3_k),
    [QUANT_Q4_K] = TWO(q4_k, dmin), [QUANT_Q5_K] = TWO(q5_k, dmin), [QUANT_Q6_K] = ONE(q6_k),
    [QUANT_IQ4_XS] = ONE(iq4_xs),
};

bool quantizer_check_blocks(quant q, const void *blocks, size_t n) {
    enum { F16_EXPONENT = 0x7c00 };
    const uint8_t *block = blocks;
    const f16_fields *f = &fields[q];
    for (size_t b = 0; b < n && f->n > 0; b++, block += quant_table[q].block_bytes) {
        for (int i = 0; i < f->n; i++) {
            uint16_t h;
            memcpy(&h, block + f->offset[i], sizeof h);
            if ((h & F16_EXPONENT) == F16_EXPONENT) return false;
        }
    }
    return true;
}

/* ---- sources --------------------------------------------------------------------------------- */

/* E4M3 without infinities: sign, four bits of exponent with bias 7, three of mantissa; all ones is
 * no number. */
static float f8_to_f32(uint8_t b) {
    int exponent = b >> 3 & 15, mantissa = b & 7;
    if (exponent == 15 && mantissa == 7) return NAN;
    float x =
        exponent == 0 ? ldexpf((float)mantissa, -9) : ldexpf((float)(8 + mantissa), exponent - 10);
    return b & 0x80 ? -x : x;
}

/* One call of ll_quantizer_write. */
typedef struct job {
    const ll_tensor_source *source;
    const ll_tensor_target *target;
    const quant_traits *from; /* NULL: F8_E4M3 */
    const quant_traits *to;
    quant to_id;
    encode_blocks *encode;
    const encode_table *encoders;
    float *weights; /* [row_dim] importance, none of it zero; NULL: all 1 */
    float f8[256];
    size_t from_row_bytes, to_row_bytes, chunk_rows, n_chunks;
    char *scratch; /* [n_threads][scratch_bytes]: rows as read, as floats, as blocks */
    size_t scratch_bytes;
    ll_loss *losses; /* [n_chunks]; NULL: not measured */
    ll_poll *poll;
    void *poll_arg;
    double next_poll;
    bool is_begun;
    _Atomic bool stop, has_failed;
    ll_error *err; /* of the first task that failed */
} job;

static bool fail(job *j, ll_error_code code, const char *format, unsigned long long row,
                 unsigned long long column) {
    atomic_store(&j->stop, true);
    if (!atomic_exchange(&j->has_failed, true)) ll_fail(j->err, code, format, row, column);
    return false;
}

static bool fail_system(job *j, const char *what, int number) {
    atomic_store(&j->stop, true);
    if (!atomic_exchange(&j->has_failed, true)) {
        ll_fail(j->err, LL_ERR_IO, "%s: %s", what, strerror(number));
        j->err->system = number;
    }
    return false;
}

static bool read_all(job *j, void *to, size_t n_bytes, uint64_t offset) {
    for (char *at = to; n_bytes > 0;) {
        ssize_t n = pread(j->source->fd, at, n_bytes, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_system(j, "cannot read the tensor", errno);
        if (n == 0) return fail(j, LL_ERR_IO, "the file ends inside the tensor", 0, 0);
        at += n, offset += (uint64_t)n, n_bytes -= (size_t)n;
    }
    return true;
}

static bool write_all(job *j, const void *from, size_t n_bytes, uint64_t offset) {
    for (const char *at = from; n_bytes > 0;) {
        ssize_t n = pwrite(j->target->fd, at, n_bytes, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_system(j, "cannot write the tensor", errno);
        at += n, offset += (uint64_t)n, n_bytes -= (size_t)n;
    }
    return true;
}

static bool read_rows(job *j, uint64_t row, size_t n_rows, char *bytes) {
    const ll_tensor_source *s = j->source;
    const size_t row_bytes = j->from_row_bytes;
    if (s->row_order == NULL)
        return read_all(j, bytes, n_rows * row_bytes, s->offset + row * row_bytes);
    for (size_t r = 0; r < n_rows; r++)
        if (!read_all(j, bytes + r * row_bytes, row_bytes,
                      s->offset + (uint64_t)s->row_order[row + r] * row_bytes))
            return false;
    return true;
}

/* The floats of one row; `row` is the file's. */
static void make_floats(const job *j, uint64_t row, const char *bytes, float *x) {
    const ll_tensor_source *s = j->source;
    if (j->from == &quant_table[QUANT_F16]) {
        j->encoders->decode_f16((const uint16_t *)(const void *)bytes, x, s->row_dim);
        return;
    }
    if (j->from != NULL) {
        j->from->dequantize(bytes, x, s->row_dim);
        return;
    }
    for (size_t i = 0; i < s->row_dim; i++) x[i] = j->f8[(uint8_t)bytes[i]];
    if (s->scales == NULL) return;
    uint64_t n_across = (s->row_dim + s->scale_cols - 1) / s->scale_cols;
    const float *scales = s->scales + row / s->scale_rows * n_across;
    for (size_t i = 0; i < s->row_dim; i++) x[i] *= scales[i / s->scale_cols];
}

/* What the blocks of no quant reach, though sums of its squares are numbers. */
static bool check_values(job *j, uint64_t row, const float *x) {
    enum { MAGNITUDE = 0x7fffffff, INFINITE = 0x7f800000 };
    static const float most = ENCODE_LARGEST;
    int32_t limit, bits;
    memcpy(&limit, &most, sizeof limit);
    if (j->to->block_dim == 1) limit = INFINITE - 1;
    int bad = 0;
    for (size_t i = 0; i < j->source->row_dim; i++) {
        memcpy(&bits, &x[i], sizeof bits);
        bad |= (bits & MAGNITUDE) > limit;
    }
    if (!bad) return true;
    for (size_t i = 0; i < j->source->row_dim; i++)
        if (!isfinite(x[i]))
            return fail(j, LL_ERR_NUMERIC, "row %llu, column %llu is not a finite number", row, i);
    return fail(j, LL_ERR_NUMERIC, too_large, row, 0);
}

/* ---- a chunk --------------------------------------------------------------------------------- */

static void measure_row(const job *j, const float *x, const void *blocks, float *y, ll_loss *sum) {
    j->to->dequantize(blocks, y, j->source->row_dim);
    for (size_t i = 0; i < j->source->row_dim; i++) {
        double w = j->target->importance ? (double)j->target->importance[i] : 1;
        double off = (double)x[i] - (double)y[i];
        sum->error += w * off * off;
        sum->total += w * (double)x[i] * (double)x[i];
    }
}

static void run_chunk(void *arg, uint32_t chunk, uint32_t thread) {
    job *j = arg;
    const ll_tensor_source *s = j->source;
    if (thread == 0 && j->poll != NULL && system_seconds() >= j->next_poll) {
        j->next_poll = system_seconds() + seconds_per_poll;
        if (j->poll(j->poll_arg)) (void)fail(j, LL_ERR_CANCELLED, "cancelled", 0, 0);
    }
    if (atomic_load_explicit(&j->stop, memory_order_relaxed)) return;
    uint64_t row = (uint64_t)chunk * j->chunk_rows;
    size_t n_rows = s->n_rows - row < j->chunk_rows ? (size_t)(s->n_rows - row) : j->chunk_rows;
    size_t dim = s->row_dim, n_blocks = dim / j->to->block_dim;
    float *x = (float *)(void *)(j->scratch + thread * j->scratch_bytes);
    float *spare = x + j->chunk_rows * dim;
    char *bytes = (char *)(spare + dim), *blocks = bytes + j->chunk_rows * j->from_row_bytes;
    if (!read_rows(j, row, n_rows, bytes)) return;
    for (size_t r = 0; r < n_rows; r++) {
        uint64_t from = s->row_order ? s->row_order[row + r] : row + r;
        make_floats(j, from, bytes + r * j->from_row_bytes, x + r * dim);
        if (!check_values(j, row + r, x + r * dim)) return;
        if (j->from == j->to) {
            memcpy(blocks + r * j->to_row_bytes, bytes + r * j->from_row_bytes, j->to_row_bytes);
        } else {
            j->encode(x + r * dim, j->weights, n_blocks, blocks + r * j->to_row_bytes);
        }
        if (!quantizer_check_blocks(j->to_id, blocks + r * j->to_row_bytes, n_blocks)) {
            (void)fail(j, LL_ERR_NUMERIC, too_large, row + r, 0);
            return;
        }
        if (j->losses)
            measure_row(j, x + r * dim, blocks + r * j->to_row_bytes, spare, &j->losses[chunk]);
    }
    (void)write_all(j, blocks, n_rows * j->to_row_bytes, j->target->offset + row * j->to_row_bytes);
}

static uint32_t count_chunks(void *arg) {
    job *j = arg;
    if (j->is_begun) return 0;
    j->is_begun = true;
    return (uint32_t)j->n_chunks;
}

/* ---- a tensor -------------------------------------------------------------------------------- */

static bool find_quant(const char *name, quant *out) {
    for (int q = 0; q < QUANT_COUNT; q++)
        if (strcmp(quant_table[q].name, name) == 0) {
            *out = (quant)q;
            return true;
        }
    return false;
}

static bool check_types(job *j, ll_error *err) {
    const ll_tensor_source *s = j->source;
    quant from = QUANT_F32;
    bool is_f8 = strcmp(s->type, "F8_E4M3") == 0;
    if (!is_f8 && !find_quant(s->type, &from))
        return ll_fail(err, LL_ERR_ARGUMENT, "there is no type %s to read", s->type);
    if (!find_quant(j->target->quant, &j->to_id))
        return ll_fail(err, LL_ERR_ARGUMENT, "there is no quant %s", j->target->quant);
    j->from = is_f8 ? NULL : &quant_table[from];
    j->to = &quant_table[j->to_id];
    const quant_traits *both[] = {j->from, j->to};
    for (int i = 0; i < 2; i++)
        if (both[i] != NULL && s->row_dim % both[i]->block_dim != 0)
            return ll_fail(err, LL_ERR_ARGUMENT, "rows of %llu values are no whole blocks of %s",
                           (unsigned long long)s->row_dim, both[i]->name);
    if (s->scales != NULL && (s->scale_rows == 0 || s->scale_cols == 0))
        return ll_fail(err, LL_ERR_ARGUMENT, "scales need the size of what they scale");
    enum { MOST_BITS = 40 };
    if (s->n_rows == 0 || s->row_dim == 0 || s->row_dim >> 31 != 0 ||
        s->n_rows > ((uint64_t)1 << MOST_BITS) / s->row_dim)
        return ll_fail(err, LL_ERR_ARGUMENT, "a tensor of %llu rows of %llu values",
                       (unsigned long long)s->n_rows, (unsigned long long)s->row_dim);
    return true;
}

/* A column that never counted would be quantized to anything, so each counts a little. */
static bool make_weights(job *j, ll_error *err) {
    const float *importance = j->target->importance;
    size_t n = j->source->row_dim;
    if (importance == NULL) return true;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(importance[i] >= 0) || !isfinite(importance[i]))
            return ll_fail(err, LL_ERR_ARGUMENT, "the importance of column %zu is %g", i,
                           (double)importance[i]);
        sum += (double)importance[i];
    }
    if (sum == 0) return true;
    j->weights = malloc(n * sizeof(float));
    if (j->weights == NULL) return ll_fail(err, LL_ERR_MEMORY, "no memory for the importance");
    float by = (float)((double)n / sum); /* their mean is 1 */
    for (size_t i = 0; i < n; i++) j->weights[i] = importance[i] * by + 1e-4f;
    return true;
}

static bool place(job *j, uint32_t n_threads, bool measured, ll_error *err) {
    const ll_tensor_source *s = j->source;
    size_t dim = s->row_dim;
    j->from_row_bytes = j->from == NULL ? dim : quant_row_bytes(j->from, dim);
    j->to_row_bytes = quant_row_bytes(j->to, dim);
    j->chunk_rows = dim >= CHUNK_VALUES ? 1 : CHUNK_VALUES / dim;
    if (j->chunk_rows > s->n_rows) j->chunk_rows = (size_t)s->n_rows;
    uint64_t n_chunks = (s->n_rows + j->chunk_rows - 1) / j->chunk_rows;
    if (n_chunks > UINT32_MAX)
        return ll_fail(err, LL_ERR_ARGUMENT, "a tensor of %llu rows",
                       (unsigned long long)s->n_rows);
    j->n_chunks = (size_t)n_chunks;
    size_t bytes = (j->chunk_rows + 1) * dim * sizeof(float) +
                   j->chunk_rows * (j->from_row_bytes + j->to_row_bytes);
    j->scratch_bytes = (bytes + 63) / 64 * 64;
    j->scratch = aligned_alloc(64, j->scratch_bytes * n_threads);
    if (measured) j->losses = calloc(j->n_chunks, sizeof *j->losses);
    if (j->scratch == NULL || (measured && j->losses == NULL))
        return ll_fail(err, LL_ERR_MEMORY, "no memory for rows of %zu values", dim);
    return true;
}

bool ll_quantizer_write(ll_quantizer *q, const ll_tensor_source *source,
                        const ll_tensor_target *target, ll_poll *poll, void *arg, ll_loss *loss,
                        ll_error *err) {
    job j = {.source = source, .target = target, .poll = poll, .poll_arg = arg, .err = err};
    bool ok = check_types(&j, err) && make_weights(&j, err) &&
              place(&j, threads_count(q->pool), loss != NULL, err);
    if (ok) {
        for (int b = 0; b < 256; b++) j.f8[b] = f8_to_f32((uint8_t)b);
        j.encoders = quantizer_encoders();
        j.encode = j.encoders->encode[j.to_id];
        j.next_poll = system_seconds() + seconds_per_poll;
        uint64_t state = isa_enter_exact();
        threads_run_phases(q->pool, count_chunks, run_chunk, &j);
        isa_restore(state);
        ok = !atomic_load(&j.has_failed);
    }
    if (ok && loss != NULL) {
        *loss = (ll_loss){0};
        for (size_t i = 0; i < j.n_chunks; i++) {
            loss->error += j.losses[i].error;
            loss->total += j.losses[i].total;
        }
    }
    free(j.weights);
    free(j.scratch);
    free(j.losses);
    return ok;
}

ll_quantizer *ll_quantizer_open(uint32_t n_threads, ll_error *err) {
    ll_quantizer *q = calloc(1, sizeof *q);
    if (q == NULL) {
        ll_fail(err, LL_ERR_MEMORY, "no memory for a quantizer");
        return NULL;
    }
    q->pool = threads_open(n_threads == 0 ? system_usable_cores() : n_threads, err);
    if (q->pool != NULL) return q;
    free(q);
    return NULL;
}

void ll_quantizer_close(ll_quantizer *q) {
    if (q == NULL) return;
    threads_close(q->pool);
    free(q);
}
