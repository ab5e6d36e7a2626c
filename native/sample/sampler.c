/* sampler: see sampler.h for the order of the settings.
 *
 * A probability is an integer weight, 2^40 for the likeliest candidate. Integer sums are exact in
 * any order, so nothing is ever sorted: "the first candidates in rank order that reach this much"
 * is found by radix selection, in a few passes, with the result of a full sort. Rank order is logit
 * descending, then id ascending.
 *
 * exp is a polynomial of plain double multiplications and additions, which every machine rounds
 * alike; its relative error, 2e-10, is far below what a float logit can tell.
 */
#include "sample/sampler.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/isa.h"

/* ---- random numbers ------------------------------------------------------------------------ */

double sampler_uniform(uint64_t seed, uint64_t position) {
    uint32_t c[4] = {(uint32_t)position, (uint32_t)(position >> 32), 0, 0};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = UINT64_C(0xd2511f53) * c[0], p1 = UINT64_C(0xcd9e8d57) * c[2];
        uint32_t next[4] = {(uint32_t)(p1 >> 32) ^ c[1] ^ key[0], (uint32_t)p1,
                            (uint32_t)(p0 >> 32) ^ c[3] ^ key[1], (uint32_t)p0};
        memcpy(c, next, sizeof c);
        key[0] += 0x9e3779b9u;
        key[1] += 0xbb67ae85u;
    }
    uint64_t bits = (uint64_t)c[1] << 32 | c[0];
    return (double)(bits >> 11) * 0x1p-53;
}

/* ---- ranking ------------------------------------------------------------------------------- */

typedef struct candidate {
    float logit; /* finite, and no zero is negative */
    int32_t id;
} candidate;
static_assert(sizeof(candidate) == 8, "ll_sample promises its caller 8 bytes a token");

/* The tokens still in the game, in ascending order of id. */
typedef struct candidates {
    candidate *list; /* [n] */
    size_t n;
    float best; /* the highest logit */
} candidates;

enum {
    WEIGHT_BITS = 40,
    MAX_VOCAB = 1 << 23, /* so that a sum of weights fits 63 bits */
};
static const double log2_e = 1.4426950408889634;

/* 2^40 * 2^y for y <= 0, rounded down. */
static inline uint64_t weight_of(double y) {
    if (!(y > -WEIGHT_BITS)) return 0;
    int whole = (int)(y - 0.5); /* the nearest, as y <= 0 */
    double x = y - whole;       /* in [-0.5, 0.5]: the series of e^(x ln 2) up to x^8 */
    double p = 1.3215486790144305e-06;
    p = p * x + 1.5252733804059838e-05;
    p = p * x + 1.5403530393381606e-04;
    p = p * x + 1.3333558146428441e-03;
    p = p * x + 9.6181291076284769e-03;
    p = p * x + 5.5504108664821576e-02;
    p = p * x + 2.4022650695910069e-01;
    p = p * x + 6.9314718055994529e-01;
    p = p * x + 1.0;
    return (uint64_t)(p * 0x1p52) >> (52 - WEIGHT_BITS - whole);
}

/* How candidates are put in order and what is summed along it. */
typedef struct ranking {
    float best;         /* the highest logit */
    double scale;       /* weight = 2^40 * 2^((logit - best) * scale) */
    const double *near; /* order by |logit - *near| instead of the logit */
    bool count;         /* sum 1 for each instead of its weight */
} ranking;

static inline uint64_t measure(const ranking *r, candidate c) {
    return r->count ? 1 : weight_of(((double)c.logit - (double)r->best) * r->scale);
}

/* Where a candidate comes in rank order: lower goes first, equal by id. */
static inline uint32_t order(const ranking *r, candidate c) {
    float value = r->near ? 0.0f - (float)fabs((double)c.logit - *r->near) : c.logit;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits ^ (((bits >> 31) - 1) & 0x7fffffffu);
}

/* A candidate's rank: its order, then its id in the low 32 bits. */
static inline uint64_t rank(const ranking *r, candidate c) {
    return (uint64_t)order(r, c) << 32 | (uint32_t)c.id;
}

static inline int32_t id_of_rank(uint64_t rank) { return (int32_t)(uint32_t)rank; }

/* The rank at which the measures, summed in rank order, reach share of their total plus
 * `extra` (at least 1, at most the total). Each pass fixes some more bits of its order. */
static uint64_t find_boundary(const ranking *r, const candidates *c, double share, uint64_t extra) {
    static const struct {
        int shift, bits;
    } passes[] = {
        {21, 11},
        {10, 11},
        {0,  10}
    };
    uint64_t sums[1 << 11], target = 0;
    uint32_t known = 0, mask = 0;
    for (size_t pass = 0; pass < sizeof passes / sizeof passes[0]; pass++) {
        int shift = passes[pass].shift;
        uint32_t last = (1u << passes[pass].bits) - 1;
        memset(sums, 0, sizeof sums);
        for (size_t i = 0; i < c->n; i++) {
            uint32_t o = order(r, c->list[i]);
            if ((o & mask) == known) sums[o >> shift & last] += measure(r, c->list[i]);
        }
        if (pass == 0) {
            uint64_t total = 0;
            for (uint32_t i = 0; i <= last; i++) total += sums[i];
            target = (uint64_t)(share * (double)total) + extra;
            target = target < 1 ? 1 : target > total ? total : target;
        }
        uint32_t at = 0;
        while (at < last && sums[at] < target) target -= sums[at++];
        known |= at << shift;
        mask |= last << shift;
    }
    uint64_t boundary = 0;
    for (size_t i = 0; i < c->n && target > 0; i++) {
        if (order(r, c->list[i]) != known) continue;
        uint64_t m = measure(r, c->list[i]);
        boundary = rank(r, c->list[i]);
        target -= m < target ? m : target;
    }
    return boundary;
}

static void keep(const ranking *r, candidates *c, uint64_t boundary) {
    size_t n = 0;
    for (size_t i = 0; i < c->n; i++) {
        candidate one = c->list[i];
        c->list[n] = one;
        n += rank(r, one) <= boundary;
    }
    c->n = n;
}

/* ---- logits to candidates ------------------------------------------------------------------ */

/* Logits [n_vocab], `stride` floats apart: the engine's own or the adjusted ones in the scratch. */
typedef struct logit_view {
    const float *first;
    size_t stride;
} logit_view;

static float penalized(const ll_sampling *s, float logit, int32_t count) {
    logit = logit > 0 ? logit / s->repeat_penalty : logit * s->repeat_penalty;
    return logit - ((float)count * s->frequency_penalty + s->presence_penalty);
}

/* Copies the logits and applies biases and penalties; uses `id` to count the recent tokens. */
static bool adjust(const ll_sampling *s, const float *logits, uint32_t n_vocab,
                   const int32_t *recent, size_t n_recent, candidate *list, ll_error *err) {
    for (uint32_t i = 0; i < n_vocab; i++) list[i] = (candidate){logits[i], 0};
    for (size_t i = 0; i < s->n_biases; i++) {
        ll_logit_bias b = s->biases[i];
        if (b.id < 0 || (uint32_t)b.id >= n_vocab || !(b.bias <= FLT_MAX))
            return ll_fail(err, LL_ERR_ARGUMENT,
                           "a logit bias of %g for token %d, expected a number or -inf for a token "
                           "under %u",
                           (double)b.bias, b.id, n_vocab);
        list[b.id].logit += b.bias;
    }
    for (size_t i = 0; i < n_recent; i++) {
        if (recent[i] < 0 || (uint32_t)recent[i] >= n_vocab)
            return ll_fail(err, LL_ERR_ARGUMENT, "recent token %d, expected an id under %u",
                           recent[i], n_vocab);
        list[recent[i]].id++;
    }
    for (size_t i = 0; i < n_recent; i++) {
        candidate *c = &list[recent[i]];
        if (c->id > 0) c->logit = penalized(s, c->logit, c->id);
        c->id = 0;
    }
    return true;
}

static bool fail_logit(uint32_t id, float logit, ll_error *err) {
    return ll_fail(err, LL_ERR_NUMERIC, "the logit of token %u is %g", id, (double)logit);
}

static bool fail_none(ll_error *err) {
    return ll_fail(err, LL_ERR_NUMERIC, "no token has a finite logit");
}

static bool take_best(logit_view v, uint32_t n_vocab, int32_t *id, ll_error *err) {
    float best = -INFINITY;
    *id = -1;
    for (uint32_t i = 0; i < n_vocab; i++) {
        float logit = v.first[i * v.stride];
        if (!(logit <= FLT_MAX)) return fail_logit(i, logit, err);
        if (logit > best) {
            best = logit;
            *id = (int32_t)i;
        }
    }
    return *id >= 0 || fail_none(err);
}

/* Gathers the top_k best (0: all) of the finite logits in one pass: a list that grew to twice that
 * is cut back, and what ranks below a cut is not looked at again. The list may overlay the view,
 * as it never gets ahead of it. */
static bool gather(logit_view v, uint32_t n_vocab, size_t top_k, candidates *c, ll_error *err) {
    enum { SMALLEST_CUT = 1024 };
    size_t limit = top_k == 0 ? n_vocab : top_k + (top_k > SMALLEST_CUT ? top_k : SMALLEST_CUT);
    ranking by_logit = {.count = true};
    float above = -INFINITY; /* later ids need more than this */
    c->n = 0;
    c->best = -INFINITY;
    for (uint32_t i = 0; i < n_vocab; i++) {
        float logit = v.first[i * v.stride];
        if (!(logit <= FLT_MAX)) return fail_logit(i, logit, err);
        if (!(logit > above)) continue;
        if (logit > c->best) c->best = logit;
        c->list[c->n++] = (candidate){logit + 0.0f, (int32_t)i};
        if (c->n < limit || top_k == 0) continue;
        uint64_t boundary = find_boundary(&by_logit, c, 0, top_k);
        keep(&by_logit, c, boundary);
        for (size_t j = 0; j < c->n; j++)
            if (c->list[j].id == id_of_rank(boundary)) above = c->list[j].logit;
    }
    if (top_k > 0 && c->n > top_k) keep(&by_logit, c, find_boundary(&by_logit, c, 0, top_k));
    return c->n > 0 || fail_none(err);
}

/* ---- the steps ----------------------------------------------------------------------------- */

/* Locally typical sampling (Meister et al. 2022): the candidates whose surprise is nearest to the
 * expected one. Surprise is log(total) - logit, so its distance from its mean is the logit's. */
static void keep_typical(candidates *c, float typical_p) {
    ranking r = {.best = c->best, .scale = log2_e};
    double sum = 0, total = 0;
    for (size_t i = 0; i < c->n; i++) {
        double weight = (double)measure(&r, c->list[i]);
        total += weight;
        sum += weight * ((double)c->list[i].logit - (double)c->best);
    }
    double mean = (double)c->best + sum / total;
    r.near = &mean;
    keep(&r, c, find_boundary(&r, c, (double)typical_p, 0));
    c->best = -INFINITY;
    for (size_t i = 0; i < c->n; i++)
        if (c->list[i].logit > c->best) c->best = c->list[i].logit;
}

static void keep_top_p(candidates *c, float top_p) {
    ranking r = {.best = c->best, .scale = log2_e};
    keep(&r, c, find_boundary(&r, c, (double)top_p, 0));
}

static void keep_min_p(candidates *c, float min_p) {
    ranking r = {.best = c->best, .scale = log2_e};
    double least = (double)min_p * (double)(UINT64_C(1) << WEIGHT_BITS);
    size_t n = 0;
    for (size_t i = 0; i < c->n; i++)
        if ((double)measure(&r, c->list[i]) >= least) c->list[n++] = c->list[i];
    c->n = n;
}

static int32_t draw(const candidates *c, const ll_sampling *s, uint64_t position) {
    ranking r = {.best = c->best, .scale = log2_e / (double)s->temperature};
    return id_of_rank(find_boundary(&r, c, sampler_uniform(s->seed, position), 1));
}

/* ---- ll_sample ----------------------------------------------------------------------------- */

static bool check(const ll_sampling *s, ll_error *err) {
    const struct {
        const char *name;
        float value, low, high;
    } ranges[] = {
        {"temperature",       s->temperature,       0,        FLT_MAX},
        {"top_k",             (float)s->top_k,      0,        FLT_MAX},
        {"top_p",             s->top_p,             0,        1      },
        {"min_p",             s->min_p,             0,        1      },
        {"typical_p",         s->typical_p,         0,        1      },
        {"repeat_penalty",    s->repeat_penalty,    FLT_MIN,  FLT_MAX},
        {"frequency_penalty", s->frequency_penalty, -FLT_MAX, FLT_MAX},
        {"presence_penalty",  s->presence_penalty,  -FLT_MAX, FLT_MAX},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (!(ranges[i].value >= ranges[i].low && ranges[i].value <= ranges[i].high))
            return ll_fail(err, LL_ERR_ARGUMENT, "%s is %g, expected %g to %g", ranges[i].name,
                           (double)ranges[i].value, (double)ranges[i].low, (double)ranges[i].high);
    return true;
}

static bool sample(const ll_sampling *s, const float *logits, uint32_t n_vocab,
                   const int32_t *recent, size_t n_recent, uint64_t position, candidate *list,
                   int32_t *id, ll_error *err) {
    logit_view view = {logits, 1};
    bool penalties =
        s->repeat_penalty != 1 || s->frequency_penalty != 0 || s->presence_penalty != 0;
    if (!penalties) n_recent = 0;
    if (n_recent > s->penalty_last_n) {
        recent += n_recent - s->penalty_last_n;
        n_recent = s->penalty_last_n;
    }
    if (s->n_biases > 0 || n_recent > 0) {
        if (!adjust(s, logits, n_vocab, recent, n_recent, list, err)) return false;
        view = (logit_view){&list->logit, sizeof *list / sizeof list->logit};
    }
    if (s->temperature == 0) return take_best(view, n_vocab, id, err);
    candidates c = {.list = list};
    if (!gather(view, n_vocab, (size_t)s->top_k, &c, err)) return false;
    if (s->typical_p < 1) keep_typical(&c, s->typical_p);
    if (s->top_p < 1) keep_top_p(&c, s->top_p);
    if (s->min_p > 0) keep_min_p(&c, s->min_p);
    *id = draw(&c, s, position);
    return true;
}

bool ll_sample(const ll_sampling *s, const float *logits, uint32_t n_vocab, const int32_t *recent,
               size_t n_recent, uint64_t position, void *scratch, int32_t *id, ll_error *err) {
    if (n_vocab == 0 || n_vocab > MAX_VOCAB)
        return ll_fail(err, LL_ERR_ARGUMENT, "%u logits, expected 1 to %d", n_vocab, MAX_VOCAB);
    if (!check(s, err)) return false;
    uint64_t state = isa_enter_exact();
    bool ok = sample(s, logits, n_vocab, recent, n_recent, position, scratch, id, err);
    isa_restore(state);
    return ok;
}
