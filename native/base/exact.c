/* exact: conversions, exponential kin, ordered sums, and the double functions behind RoPE tables.
 *
 * Only + - * /, fma, sqrt, rint and integer operations are used: IEEE 754 defines each of them to
 * the bit, so the results depend on neither the C library nor the processor. Polynomials whose
 * coefficients are written as fractions are Taylor series, long enough that what they leave out is
 * below the rounding of their sum.
 */
#include "base/exact.h"

#include <math.h>
#include <string.h>

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint64_t bits_of_double(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline double double_of(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* ---- conversions; a NaN stays one and is quieted, as the processors' instructions do --------- */

float exact_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = h >> 10 & 31;
    uint32_t fraction = h & 1023;
    if (exponent == 31) {
        uint32_t quiet = fraction ? UINT32_C(0x400000) : 0;
        return float_of(sign | UINT32_C(0x7f800000) | quiet | fraction << 13);
    }
    if (exponent) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
    /* a subnormal is fraction * 2^-24, which f32 holds as a normal number */
    return float_of(sign | bits_of((float)fraction * 0x1p-24f));
}

uint16_t exact_f32_to_f16(float x) {
    uint32_t bits = bits_of(x);
    uint32_t sign = bits >> 16 & 0x8000;
    uint32_t magnitude = bits & UINT32_C(0x7fffffff);
    if (magnitude > UINT32_C(0x7f800000)) {
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x1ff));
    }
    if (magnitude >= UINT32_C(0x47800000)) return (uint16_t)(sign | 0x7c00); /* 2^16 and more */
    if (magnitude < UINT32_C(0x38800000)) { /* below 2^-14: adding 1/2 leaves multiples of 2^-24 */
        return (uint16_t)(sign | (bits_of(float_of(magnitude) + 0.5f) & 0xffff));
    }
    /* Rebias the exponent and round off 13 bits; a carry runs into the exponent, or to infinity. */
    uint32_t odd = magnitude >> 13 & 1;
    return (uint16_t)(sign | (magnitude - (UINT32_C(112) << 23) + 0xfff + odd) >> 13);
}

float exact_bf16_to_f32(uint16_t h) { return float_of((uint32_t)h << 16); }

uint16_t exact_f32_to_bf16(float x) {
    uint32_t bits = bits_of(x);
    if ((bits & UINT32_C(0x7fffffff)) > UINT32_C(0x7f800000)) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ---- the exponential and its kin ----------------------------------------------------------- */

/* e^x = 2^n * e^r with n = round(x * log2 e) and |r| <= ln(2) / 2. Adding 1.5 * 2^23 rounds to an
 * integer and leaves it in the low bits, from where it is added to the exponent. The polynomial is
 * a minimax fit of e^r on |r| <= 0.34668 whose coefficients were rounded to f32 one after the
 * other, the rest fitted again each time; its relative error is 3.2e-9. */
float exact_exp(float x) {
    static const float series[EXACT_EXP_TERMS] = EXACT_EXP_SERIES;
    if (x < EXACT_EXP_LOWEST) return 0;
    float z = fmaf(x, EXACT_EXP_LOG2_E, EXACT_EXP_ROUND);
    float n = z - EXACT_EXP_ROUND;
    float r = fmaf(n, -EXACT_EXP_LN2_HIGH, x);
    r = fmaf(n, -EXACT_EXP_LN2_LOW, r);
    float p = series[0];
    for (int i = 1; i < EXACT_EXP_TERMS; i++) p = fmaf(p, r, series[i]);
    return float_of(bits_of(p) + (bits_of(z) << 23));
}

float exact_sigmoid(float x) {
    float e = exact_exp(-fabsf(x));
    return (x < 0 ? e : 1.0f) / (1.0f + e);
}

float exact_silu(float x) { return x * exact_sigmoid(x); }

float exact_gelu(float x) {
    float z = x * fmaf(EXACT_GELU_CUBIC, x * x, EXACT_GELU_LINEAR);
    return x * exact_sigmoid(z);
}

/* ---- ordered sums -------------------------------------------------------------------------- */

float exact_tree16(const float lanes[16]) {
    float t[8];
    for (int i = 0; i < 8; i++) t[i] = lanes[i] + lanes[i + 8];
    for (int half = 4; half; half /= 2) {
        for (int i = 0; i < half; i++) t[i] = t[i] + t[i + half];
    }
    return t[0];
}

float exact_sum_squares(const float *x, size_t n) {
    float v[4][16] = {{0}}; /* lane l is v[l / 16][l % 16] */
    for (size_t i = 0; i < n; i++) {
        float *lane = &v[i / 16 % 4][i % 16];
        *lane = fmaf(x[i], x[i], *lane);
    }
    float lanes[16];
    for (int i = 0; i < 16; i++) lanes[i] = (v[0][i] + v[1][i]) + (v[2][i] + v[3][i]);
    return exact_tree16(lanes);
}

void exact_rms_norm(const float *x, const float *weight, float eps, float *y, size_t n) {
    float scale = 1.0f / sqrtf(exact_sum_squares(x, n) / (float)n + eps);
    for (size_t i = 0; i < n; i++) y[i] = weight ? (x[i] * scale) * weight[i] : x[i] * scale;
}

/* ---- logits -------------------------------------------------------------------------------- */

float exact_largest(const float *x, size_t n) {
    float most = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) return NAN;
        most = x[i] > most ? x[i] : most;
    }
    return most + 0.0f;
}

uint64_t exact_weight(double y) {
    static const double series[EXACT_WEIGHT_TERMS] = EXACT_WEIGHT_SERIES;
    if (!(y > -EXACT_WEIGHT_BITS)) return 0;
    int whole = (int)(y - 0.5); /* the nearest, as y <= 0 */
    double x = y - whole;       /* in [-0.5, 0.5]: the series of e^(x ln 2) up to x^8 */
    double p = series[0];
    for (int i = 1; i < EXACT_WEIGHT_TERMS; i++) p = p * x + series[i];
    return (uint64_t)(p * 0x1p52) >> (52 - EXACT_WEIGHT_BITS - whole);
}

uint64_t exact_sum_weights(const float *x, size_t n, float best, double scale) {
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += exact_weight(((double)x[i] - (double)best) * scale);
    return sum;
}

/* ---- double precision ---------------------------------------------------------------------- */

static const double ln2_high = 0x1.62e42fefa38p-1; /* 42 bits: times an exponent it is exact */
static const double ln2_low = 0x1.ef35793c7673p-45;

/* log of a number as exponent * ln 2 + high + low, in about 70 bits. */
typedef struct log_parts {
    double exponent, high, low;
} log_parts;

/* Value of the polynomial with n coefficients, the constant first. */
static inline double horner(const double *c, int n, double x) {
    double p = c[n - 1];
    for (int i = n - 2; i >= 0; i--) p = fma(p, x, c[i]);
    return p;
}

/* x = 2^k * m with m in [sqrt(1/2), sqrt(2)), log m = 2 atanh(s) with s = (m - 1) / (m + 1), and
 * atanh(s) = s + s^3 / 3 + s^5 / 5 + … with s^2 < 0.0295. */
static log_parts log_split(double x) {
    static const double atanh_tail[] = {1.0 / 3,  1.0 / 5,  1.0 / 7,  1.0 / 9,  1.0 / 11,
                                        1.0 / 13, 1.0 / 15, 1.0 / 17, 1.0 / 19, 1.0 / 21};
    int exponent = 0;
    if (x < 0x1p-1022) {
        x *= 0x1p54;
        exponent = -54;
    }
    uint64_t bits = bits_of_double(x);
    exponent += (int)(bits >> 52) - 1023;
    double m = double_of((bits & UINT64_C(0x000fffffffffffff)) | UINT64_C(0x3ff0000000000000));
    if (m > 0x1.6a09e667f3bcdp0) { /* sqrt 2 */
        m *= 0.5;
        exponent++;
    }
    double f = m - 1, sum = m + 1;
    double sum_low = f - (sum - 2); /* what rounding m + 1 lost */
    double s = f / sum;
    double s_low = fma(-s, sum_low, fma(-s, sum, f)) / sum;
    double s2 = s * s;
    double tail = s * s2 * horner(atanh_tail, sizeof atanh_tail / sizeof *atanh_tail, s2);
    return (log_parts){exponent, 2 * s, 2 * (s_low + tail)};
}

/* The same as high + low, high being the sum rounded. */
static void log_sum(log_parts p, double *high, double *low) {
    double whole = p.exponent * ln2_high;
    double rest = fma(p.exponent, ln2_low, p.low);
    double sum = whole + p.high;
    rest += whole == 0 ? 0 : p.high - (sum - whole); /* |whole| > |high| */
    *high = sum + rest;
    *low = rest - (*high - sum);
}

double exact_log(double x) {
    double high, low;
    log_sum(log_split(x), &high, &low);
    return high;
}

/* e^(y log base) = 2^n * e^r; the product y log base is carried in two doubles. Beyond the domain
 * the result is 0 or infinity. */
double exact_pow(double base, double y) {
    static const double exp_tail[] = {1.0 / 2,        1.0 / 6,         1.0 / 24,
                                      1.0 / 120,      1.0 / 720,       1.0 / 5040,
                                      1.0 / 40320,    1.0 / 362880,    1.0 / 3628800,
                                      1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0};
    const double log2_e = 0x1.71547652b82fep0;
    double log_high, log_low;
    log_sum(log_split(base), &log_high, &log_low);
    double p = y * log_high;
    double p_low = fma(y, log_low, fma(y, log_high, -p));
    if (!(fabs(p) < 700)) return p > 0 ? INFINITY : 0;
    double n = rint(p * log2_e);
    double r = fma(-n, ln2_high, p);
    r += fma(-n, ln2_low, p_low);
    double e = 1 + fma(r * r, horner(exp_tail, sizeof exp_tail / sizeof *exp_tail, r), r);
    return e * double_of((uint64_t)((int64_t)n + 1023) << 52);
}

/* x = n pi/2 + r + r_low with |r| <= pi/4. pi/2 is taken in three doubles. The first product is
 * exact by fma, since x and n pi/2 agree in their leading bits; the second is split into two
 * doubles and subtracted with the rounding kept, as r may be tiny beside both. */
static int64_t reduce_quadrant(double x, double *r, double *r_low) {
    const double two_over_pi = 0x1.45f306dc9c883p-1;
    const double half_pi[3] = {0x1.921fb54442d18p0, 0x1.1a62633145c07p-54, -0x1.f1976b7ed8fbcp-110};
    double n = rint(x * two_over_pi);
    double first = fma(-n, half_pi[0], x);
    double second = n * half_pi[1];
    double second_low = fma(n, half_pi[1], -second);
    double sum = first - second;
    double taken = first - sum;
    double lost = (first - (sum + taken)) - (second - taken);
    double low = fma(-n, half_pi[2], lost - second_low);
    *r = sum + low;
    *r_low = low - (*r - sum);
    return (int64_t)n;
}

void exact_sincos(double x, double *sin_x, double *cos_x) {
    static const double sin_tail[] = {
        -1.0 / 6,        1.0 / 120,          -1.0 / 5040,           1.0 / 362880,
        -1.0 / 39916800, 1.0 / 6227020800.0, -1.0 / 1307674368000.0};
    static const double cos_tail[] = {
        1.0 / 24,        -1.0 / 720,           1.0 / 40320,           -1.0 / 3628800,
        1.0 / 479001600, -1.0 / 87178291200.0, 1.0 / 20922789888000.0};
    if (!(fabs(x) <= 0x1p30)) {
        *sin_x = *cos_x = NAN;
        return;
    }
    double r, r_low;
    int64_t quadrant = reduce_quadrant(x, &r, &r_low);
    double r2 = r * r, half = 0.5 * r2, top = 1 - half;
    double s_tail = horner(sin_tail, sizeof sin_tail / sizeof *sin_tail, r2);
    double c_tail = horner(cos_tail, sizeof cos_tail / sizeof *cos_tail, r2);
    /* sin(r + r_low) = sin r + r_low cos r,  cos(r + r_low) = cos r - r_low sin r */
    double s = r + fma(r * r2, s_tail, r_low * top);
    double c = top + (((1 - top) - half) + fma(r2 * r2, c_tail, -r * r_low));
    double sines[4] = {s, c, -s, -c};
    *sin_x = sines[quadrant & 3];
    *cos_x = sines[(quadrant + 1) & 3];
}
