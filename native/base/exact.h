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
