/* sampler: see sampler.h for the order of the settings.
 *
 * A probability is an integer weight, 2^40 for the likeliest candidate (exact_weight). Integer sums
 * are exact in any order, so nothing is ever sorted: "the first candidates in rank order that reach
 * this much" is found by radix selection, in a few passes, with the result of a full sort. Rank
 * order is logit descending, then id ascending.
 *
 * The first setting that leaves tokens out looks at whole strips of logits by their peaks, and only
 * what may pass it becomes a candidate; the other settings work on those few.
 */
#include "sample/sampler.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/exact.h"
#include "base/isa.h"
#include "sample/strips.h"

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

/* The tokens still in the game, in ascending order of id. */
typedef struct candidates {
    candidate *list; /* [n] */
    size_t n;
    float best; /* the highest logit */
} candidates;

enum { MAX_VOCAB = 1 << 23 }; /* so that a sum of weights fits 63 bits */
static const double log2_e = 1.4426950408889634;

/* How candidates are put in order and what is summed along it. */
typedef struct ranking {
    float best;         /* the highest logit */
    double scale;       /* weight = 2^40 * 2^((logit - best) * scale) */
    const double *near; /* order by |logit - *near| instead of the logit */
    bool count;         /* sum 1 for each instead of its weight */
} ranking;

static inline uint64_t measure(const ranking *r, candidate c) {
    return r->count ? 1 : exact_weight(((double)c.logit - (double)r->best) * r->scale);
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

static uint64_t sum_measures(const ranking *r, const candidates *c) {
    uint64_t sum = 0;
    for (size_t i = 0; i < c->n; i++) sum += measure(r, c->list[i]);
    return sum;
}

/* share of the total plus `extra`, at least 1, at most the total. */
static uint64_t target_of(uint64_t total, double share, uint64_t extra) {
    uint64_t target = (uint64_t)(share * (double)total) + extra;
    return target < 1 ? 1 : target > total ? total : target;
}

/* The rank at which the measures, summed in rank order, reach the target, which is at most their
 * total. Each pass fixes some more bits of its order. */
static uint64_t find_boundary(const ranking *r, const candidates *c, uint64_t target) {
    static const struct {
        int shift, bits;
    } passes[] = {
        {21, 11},
        {10, 11},
        {0,  10}
    };
    uint64_t sums[1 << 11];
    uint32_t known = 0, mask = 0;
    for (size_t pass = 0; pass < sizeof passes / sizeof passes[0]; pass++) {
        int shift = passes[pass].shift;
        uint32_t last = (1u << passes[pass].bits) - 1;
        memset(sums, 0, sizeof sums);
        for (size_t i = 0; i < c->n; i++) {
            uint32_t o = order(r, c->list[i]);
            if ((o & mask) == known) sums[o >> shift & last] += measure(r, c->list[i]);
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

/* Keeps the fewest candidates that reach this share of what they measure together. */
static void keep_share(const ranking *r, candidates *c, double share) {
    keep(r, c, find_boundary(r, c, target_of(sum_measures(r, c), share, 0)));
}

/* ---- logits to candidates ------------------------------------------------------------------ */

/* The tokens whose (logit - best) * scale is above `least`. */
static void gather_above(const strips *t, const ranking *r, double least, candidates *c) {
    double best = (double)r->best;
    c->n = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        if (!(((double)t->peaks[i] - best) * r->scale > least)) continue;
        uint32_t n;
        const float *x = strips_get(t, i, &n);
        for (uint32_t j = 0; j < n; j++) {
            c->list[c->n] = (candidate){x[j] + 0.0f, (int32_t)(i * STRIP_LOGITS + j)};
            c->n += ((double)x[j] - best) * r->scale > least;
        }
    }
}

/* The top_k best: a list that grew well beyond is cut back, and what ranks below a cut is not
 * looked at again. */
static void gather_top_k(const strips *t, size_t top_k, candidates *c) {
    enum { SMALLEST_CUT = 1024 };
    size_t limit = top_k + (top_k > SMALLEST_CUT ? top_k : SMALLEST_CUT);
    const ranking by_logit = {.count = true};
    float above = -INFINITY; /* later ids need more than this */
    c->n = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        if (!(t->peaks[i] > above)) continue;
        uint32_t n;
        const float *x = strips_get(t, i, &n);
        for (uint32_t j = 0; j < n; j++) {
            if (!(x[j] > above)) continue;
            c->list[c->n++] = (candidate){x[j] + 0.0f, (int32_t)(i * STRIP_LOGITS + j)};
            if (c->n < limit) continue;
            uint64_t boundary = find_boundary(&by_logit, c, top_k);
            keep(&by_logit, c, boundary);
            for (size_t k = 0; k < c->n; k++)
                if (c->list[k].id == id_of_rank(boundary)) above = c->list[k].logit;
        }
    }
    if (c->n > top_k) keep(&by_logit, c, find_boundary(&by_logit, c, top_k));
}

/* Gathers as many of the best as it takes to reach share of the weight of all tokens plus `extra`,
 * and returns the rank that reaches it. A few high ones nearly always do. */
static uint64_t gather_share(const strips *t, const ranking *r, double share, uint64_t extra,
                             candidates *c) {
    static const double floors[] = {-10, -20, -EXACT_WEIGHT_BITS}; /* below the last all weigh 0 */
    enum { N_FLOORS = sizeof floors / sizeof *floors };
    uint64_t target = target_of(strips_sum_weights(t, r->best, r->scale), share, extra);
    for (int i = 0; i < N_FLOORS; i++) {
        gather_above(t, r, floors[i], c);
        if (sum_measures(r, c) >= target) break;
    }
    return find_boundary(r, c, target);
}

/* ---- the steps ----------------------------------------------------------------------------- */

/* Locally typical sampling (Meister et al. 2022): the candidates whose surprise is nearest to the
 * expected one. Surprise is log(total) - logit, so its distance from its mean is the logit's. */
static void keep_typical(candidates *c, float typical_p) {
    ranking r = {.best = c->best, .scale = log2_e};
    double sum = 0, total = 0;
    uint64_t exact_total = 0;
    for (size_t i = 0; i < c->n; i++) {
        uint64_t weight = measure(&r, c->list[i]);
        exact_total += weight;
        total += (double)weight;
        sum += (double)weight * ((double)c->list[i].logit - (double)c->best);
    }
    double mean = (double)c->best + sum / total;
    r.near = &mean;
    keep(&r, c, find_boundary(&r, c, target_of(exact_total, (double)typical_p, 0)));
    c->best = -INFINITY;
    for (size_t i = 0; i < c->n; i++)
        if (c->list[i].logit > c->best) c->best = c->list[i].logit;
}

static void keep_min_p(candidates *c, float min_p) {
    ranking r = {.best = c->best, .scale = log2_e};
    double least = (double)min_p * (double)(UINT64_C(1) << EXACT_WEIGHT_BITS);
    size_t n = 0;
    for (size_t i = 0; i < c->n; i++)
        if ((double)measure(&r, c->list[i]) >= least) c->list[n++] = c->list[i];
    c->n = n;
}

/* Candidates for min-p alone: a little more than it keeps. */
static void gather_min_p(const strips *t, const ranking *r, float min_p, candidates *c) {
    double least = exact_log((double)min_p) * log2_e - 1e-6;
    gather_above(t, r, least > -EXACT_WEIGHT_BITS ? least : -EXACT_WEIGHT_BITS, c);
}

static int32_t draw(const candidates *c, const ll_sampling *s, double uniform) {
    ranking r = {.best = c->best, .scale = log2_e / (double)s->temperature};
    return id_of_rank(find_boundary(&r, c, target_of(sum_measures(&r, c), uniform, 1)));
}

static int32_t pick(const strips *t, const ll_sampling *s, float best, double uniform,
                    candidate *list) {
    candidates c = {.list = list, .best = best};
    ranking by_weight = {.best = best, .scale = log2_e};
    ranking to_draw = {.best = best, .scale = log2_e / (double)s->temperature};
    float top_p = s->top_p;
    if (s->top_k > 0) {
        gather_top_k(t, (size_t)s->top_k, &c);
    } else if (s->typical_p < 1) {
        gather_above(t, &by_weight, -INFINITY, &c);
    } else if (top_p < 1) {
        keep(&by_weight, &c, gather_share(t, &by_weight, (double)top_p, 0, &c));
        top_p = 1; /* done */
    } else if (s->min_p > 0) {
        gather_min_p(t, &by_weight, s->min_p, &c);
    } else {
        return id_of_rank(gather_share(t, &to_draw, uniform, 1, &c));
    }
    if (s->typical_p < 1) keep_typical(&c, s->typical_p);
    by_weight.best = c.best;
    if (top_p < 1) keep_share(&by_weight, &c, (double)top_p);
    if (s->min_p > 0) keep_min_p(&c, s->min_p);
    return draw(&c, s, uniform);
}

/* ---- sampler_draw -------------------------------------------------------------------------- */

static bool check(const ll_sampling *s, ll_error *err) {
    const struct {
        const char *name;
        double value, low, high; /* the bounds as the setting's own type has them */
    } ranges[] = {
#define X(type, name, low, high, off)                                                              \
    {#name, (double)s->name, (double)(type)(low), (double)(type)(high)},
        LL_SAMPLING(X)
#undef X
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (!(ranges[i].value >= ranges[i].low && ranges[i].value <= ranges[i].high))
            return ll_fail(err, LL_ERR_ARGUMENT, "%s is %g, expected %g to %g", ranges[i].name,
                           ranges[i].value, ranges[i].low, ranges[i].high);
    return true;
}

static bool sample(const ll_sampling *s, const float *logits, const float *peaks, uint32_t n_vocab,
                   const int32_t *recent, size_t n_recent, uint64_t position, candidate *list,
                   int32_t *id, ll_error *err) {
    bool penalties =
        s->repeat_penalty != 1 || s->frequency_penalty != 0 || s->presence_penalty != 0;
    if (!penalties) n_recent = 0;
    if (n_recent > s->penalty_last_n) {
        recent += n_recent - s->penalty_last_n;
        n_recent = s->penalty_last_n;
    }
    strips t;
    if (!strips_open(&t, s, logits, peaks, n_vocab, recent, n_recent, list + n_vocab, err))
        return false;
    float best = strips_best(&t);
    if (!(best >= -FLT_MAX)) return ll_fail(err, LL_ERR_NUMERIC, "no token has a finite logit");
    *id = s->temperature == 0 ? strips_find(&t, best)
                              : pick(&t, s, best, sampler_uniform(s->seed, position), list);
    return true;
}

size_t sampler_scratch_bytes(uint32_t n_vocab) {
    return n_vocab * sizeof(candidate) + strips_scratch_bytes(n_vocab);
}

bool sampler_draw(const ll_sampling *s, const float *logits, const float *peaks, uint32_t n_vocab,
                  const int32_t *recent, size_t n_recent, uint64_t position, void *scratch,
                  int32_t *id, ll_error *err) {
    if (n_vocab == 0 || n_vocab > MAX_VOCAB)
        return ll_fail(err, LL_ERR_ARGUMENT, "%u logits, expected 1 to %d", n_vocab, MAX_VOCAB);
    if (!check(s, err)) return false;
    uint64_t state = isa_enter_exact();
    bool ok = sample(s, logits, peaks, n_vocab, recent, n_recent, position, scratch, id, err);
    isa_restore(state);
    return ok;
}
