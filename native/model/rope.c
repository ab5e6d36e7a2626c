/* rope: every scaling kind becomes one table of frequencies (radians per position, in double) and
 * one magnitude, so the engine rotates by position * frequency[i] and knows no kinds.
 *
 *   none, linear   frequency_i = base^(-2i/n) / factor_i / factor
 *   llama3         the same, its factors stored in the file as rope_freqs.weight
 *   yarn           a ramp over i between the interpolated and the plain frequency; magnitude
 *                  1 + 0.1 ln(factor) (Peng et al. 2023, "YaRN")
 */
#include "model/rope.h"

#include <stdlib.h>
#include <string.h>

#include "base/exact.h"

typedef struct scaling {
    bool is_yarn;
    double factor; /* 1: none */
    double original_context;
    double beta_fast, beta_slow, extrapolation;
    float magnitude;
} scaling;

static bool equals(ll_string s, const char *text) {
    return s.n_bytes == strlen(text) && memcmp(s.data, text, s.n_bytes) == 0;
}

static bool read_key_f64(const model *m, const char *suffix, double *out, ll_error *err) {
    char key[128];
    model_key(m, suffix, key, sizeof key);
    float value = (float)*out;
    if (!gguf_read_f32(m->file, key, &value, err)) return false;
    *out = (double)value;
    return true;
}

static bool read_scaling(const model *m, scaling *s, ll_error *err) {
    *s = (scaling){.factor = 1, .beta_fast = 32, .beta_slow = 1, .extrapolation = 1};
    uint32_t original_context = m->n_ctx_train;
    char key[128];
    model_key(m, "rope.scaling.original_context_length", key, sizeof key);
    if (!gguf_read_u32(m->file, key, &original_context, err)) return false;
    s->original_context = original_context;
    ll_string type = {"linear", 6};
    model_key(m, "rope.scaling.type", key, sizeof key);
    if (!gguf_read_string(m->file, key, &type, err)) return false;
    double factor = 0, old_factor = 0, magnitude = 1;
    if (!read_key_f64(m, "rope.scaling.factor", &factor, err) ||
        !read_key_f64(m, "rope.scale_linear", &old_factor, err) ||
        !read_key_f64(m, "rope.scaling.yarn_beta_fast", &s->beta_fast, err) ||
        !read_key_f64(m, "rope.scaling.yarn_beta_slow", &s->beta_slow, err) ||
        !read_key_f64(m, "rope.scaling.yarn_ext_factor", &s->extrapolation, err) ||
        !read_key_f64(m, "rope.scaling.attn_factor", &magnitude, err))
        return false;
    if (factor <= 0) factor = old_factor;
    if (factor <= 0 || equals(type, "none")) factor = 1;
    s->is_yarn = equals(type, "yarn") && factor > 1;
    if (!s->is_yarn && !equals(type, "linear") && !equals(type, "none") && !equals(type, "yarn"))
        return ll_fail(err, LL_ERR_UNSUPPORTED,
                       "RoPE scaling \"%.*s\"; known are none, linear, yarn",
                       (int)(type.n_bytes < 64 ? type.n_bytes : 64), type.data);
    if (!(factor < 1e6) || !(s->original_context >= 1) || !(s->beta_fast > 0) ||
        !(s->beta_slow > 0) || !(magnitude > 0 && magnitude < 1e6))
        return ll_fail(err, LL_ERR_FORMAT,
                       "RoPE scaling out of range: factor %g, original context "
                       "%g, betas %g and %g",
                       factor, s->original_context, s->beta_fast, s->beta_slow);
    s->factor = factor;
    if (s->is_yarn) magnitude *= 1.0 + 0.1 * exact_log(factor);
    s->magnitude = (float)magnitude;
    return true;
}

/* The pair index at which a frequency turns `beta` times within the original context. */
static double yarn_corner(const scaling *s, double base, double n_rot, double beta) {
    const double two_pi = 6.283185307179586;
    return n_rot * exact_log(s->original_context / (two_pi * beta)) / (2 * exact_log(base));
}

static double floor_of(double x) {
    double whole = (double)(int64_t)x;
    return whole > x ? whole - 1 : whole;
}

static bool fill(rope *r, const model *m, double base, const scaling *s, const float *factors,
                 ll_error *err) {
    uint32_t n_pairs = m->n_rot / 2;
    if (!(base > 1 && base < 1e12))
        return ll_fail(err, LL_ERR_FORMAT, "RoPE base %g, expected above 1 and below 1e12", base);
    r->frequency = malloc(n_pairs * sizeof(double));
    if (r->frequency == NULL) return ll_fail(err, LL_ERR_MEMORY, "no memory for RoPE frequencies");
    r->magnitude = s->magnitude;
    double low = 0, high = 0;
    if (s->is_yarn) {
        low = floor_of(yarn_corner(s, base, m->n_rot, s->beta_fast));
        high = -floor_of(-yarn_corner(s, base, m->n_rot, s->beta_slow));
        if (low < 0) low = 0;
        if (high > m->n_rot - 1) high = m->n_rot - 1;
        if (high - low < 0.001) high = low + 0.001;
    }
    for (uint32_t i = 0; i < n_pairs; i++) {
        double plain = exact_pow(base, -2.0 * i / m->n_rot);
        if (factors != NULL) plain /= (double)factors[i];
        double interpolated = plain / s->factor;
        double keep = 0; /* share of the plain frequency */
        if (s->is_yarn) {
            double ramp = (i - low) / (high - low);
            keep = (1 - (ramp < 0 ? 0 : ramp > 1 ? 1 : ramp)) * s->extrapolation;
        }
        r->frequency[i] = interpolated * (1 - keep) + plain * keep;
    }
    return true;
}

bool rope_open(model *m, ll_error *err) {
    scaling full, none = {.factor = 1, .magnitude = 1};
    double base = 10000, window_base = (double)m->family->window_rope_base;
    if (!read_scaling(m, &full, err) || !read_key_f64(m, "rope.freq_base", &base, err) ||
        !read_key_f64(m, "rope.freq_base_swa", &window_base, err))
        return false;
    const weight *freqs = &m->weights[WEIGHT_ROPE_FREQS];
    const float *factors = freqs->data;
    for (uint32_t i = 0; factors != NULL && i < m->n_rot / 2; i++)
        if (!(factors[i] > 0))
            return ll_fail(err, LL_ERR_FORMAT, "rope_freqs.weight holds %g at %u, expected above 0",
                           (double)factors[i], i);
    if (!fill(&m->ropes[ROPE_FULL], m, base, &full, factors, err)) return false;
    return m->window == 0 || fill(&m->ropes[ROPE_WINDOWED], m, window_base, &none, NULL, err);
}

void rope_close(model *m) {
    for (int i = 0; i < N_ROPES; i++) {
        free(m->ropes[i].frequency);
        m->ropes[i].frequency = NULL;
    }
}
