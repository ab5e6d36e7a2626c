/* exact: the canonical arithmetic's scalar truth for float work.
 *
 * Every function here defines its result to the bit: which fmaf, in which order. The kernels of an
 * instruction set may reorder only what cannot change a bit. exp and its kin are our own
 * polynomials, as libm's last bit differs from system to system.
 */
#ifndef LL_BASE_EXACT_H
#define LL_BASE_EXACT_H

#include <stddef.h>
#include <stdint.h>

float exact_f16_to_f32(uint16_t h);
uint16_t exact_f32_to_f16(float x); /* round to nearest even, subnormals kept */
float exact_bf16_to_f32(uint16_t h);
uint16_t exact_f32_to_bf16(float x);

/* The constants of exact_exp, exact_gelu and exact_weight. They stand here alone: what computes in
 * lanes reads them too. Series begin with the highest power. */
#define EXACT_EXP_LOWEST   -87.0f
#define EXACT_EXP_ROUND    0x1.8p23f /* adding it rounds to an integer, left in the low bits */
#define EXACT_EXP_LOG2_E   0x1.715476p0f
#define EXACT_EXP_LN2_HIGH 0x1.63p-1f /* 9 bits, the rest is */
#define EXACT_EXP_LN2_LOW  -0x1.bd0106p-13f
#define EXACT_EXP_SERIES                                                                           \
    {0x1.6a4f48p-10f, 0x1.123984p-7f, 0x1.5558aep-5f, 0x1.555492p-3f, 0x1.fffffcp-2f, 1.0f, 1.0f}
#define EXACT_GELU_LINEAR 1.5957691216f /* 2 sqrt(2 / pi) */
#define EXACT_GELU_CUBIC  0.0713548163f /* the same times 0.044715 */
#define EXACT_WEIGHT_SERIES                                                                        \
    {1.3215486790144305e-06, 1.5252733804059838e-05, 1.5403530393381606e-04,                       \
     1.3333558146428441e-03, 9.6181291076284769e-03, 5.5504108664821576e-02,                       \
     2.4022650695910069e-01, 6.9314718055994529e-01, 1.0}
enum { EXACT_EXP_TERMS = 7, EXACT_WEIGHT_TERMS = 9 };

/* e^x for x <= 88; 0 below -87. Relative error below 1e-7. */
float exact_exp(float x);
/* 1 / (1 + e^-x), computed from e^-|x|. */
float exact_sigmoid(float x);
/* x * sigmoid(x) */
float exact_silu(float x);
/* The tanh form of GELU, as x * sigmoid(2 * sqrt(2/pi) * (x + 0.044715 x^3)). */
float exact_gelu(float x);

/* Sum of 16 lanes by halves: 8, 4, 2, 1. */
float exact_tree16(const float lanes[16]);
/* Sum of squares in 64 lanes, lane i mod 64, one fmaf per value in ascending order; lanes combine
 * as (v0 + v1) + (v2 + v3) over groups of 16, then tree16. */
float exact_sum_squares(const float *x, size_t n);

/* y = (x * (1 / sqrt(sum_squares / n + eps))) * weight; weight NULL means 1. y may be x. */
void exact_rms_norm(const float *x, const float *weight, float eps, float *y, size_t n);

/* The largest of n >= 1 values, no zero negative; NaN where any of them is not finite. */
float exact_largest(const float *x, size_t n);

/* A probability as an integer, floor(2^40 * 2^y) for y <= 0: sums of it are exact in any order. A
 * polynomial of plain double multiplications and additions; its relative error, 2e-10, is far below
 * what a float logit can tell. */
enum { EXACT_WEIGHT_BITS = 40 };
uint64_t exact_weight(double y);
/* The sum of exact_weight((x[i] - best) * scale); no x[i] is above best, -infinity weighs 0. */
uint64_t exact_sum_weights(const float *x, size_t n, float best, double scale);

/* Double-precision functions for RoPE tables: own polynomials, the same on every system. */
double exact_log(double x);                                /* x > 0, finite */
double exact_pow(double base, double y);                   /* base > 0, |y log2(base)| < 1000 */
void exact_sincos(double x, double *sin_x, double *cos_x); /* |x| <= 2^30 */

#endif
