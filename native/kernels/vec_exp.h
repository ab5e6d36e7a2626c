/* vec_exp: exact_exp and what is made of it, as many lanes at a time as a register has, operation
 * for operation as base/exact.c does them.
 *
 * Included by the file that gives an instruction set's `vec`, a register of VEC_DIM floats, and
 *   vec_all(x)                   x in every lane
 *   vec_add, vec_sub, vec_mul, vec_div
 *   vec_fma(a, b, c)             a * b + c, rounded once
 *   vec_negated_magnitude(x)     -|x|
 *   vec_where_negative(x, a, b)  x < 0 ? a : b
 *   vec_times_power(p, z)        p * 2^n, n being the low bits of z, as exact_exp has it
 *   vec_zero_below(x, low, y)    x < low ? 0 : y
 */
#ifndef LL_KERNELS_VEC_EXP_H
#define LL_KERNELS_VEC_EXP_H

#include "base/exact.h"

VEC_INLINE vec vec_exp(vec x) {
    static const float series[EXACT_EXP_TERMS] = EXACT_EXP_SERIES;
    const vec round_to_integer = vec_all(EXACT_EXP_ROUND);
    vec z = vec_fma(x, vec_all(EXACT_EXP_LOG2_E), round_to_integer);
    vec n = vec_sub(z, round_to_integer);
    vec r = vec_fma(n, vec_all(-EXACT_EXP_LN2_HIGH), x);
    r = vec_fma(n, vec_all(-EXACT_EXP_LN2_LOW), r);
    vec p = vec_all(series[0]);
#pragma GCC unroll 6
    for (int i = 1; i < EXACT_EXP_TERMS; i++) p = vec_fma(p, r, vec_all(series[i]));
    return vec_zero_below(x, vec_all(EXACT_EXP_LOWEST), vec_times_power(p, z));
}

VEC_INLINE vec vec_sigmoid(vec x) {
    const vec one = vec_all(1.0f);
    vec e = vec_exp(vec_negated_magnitude(x));
    return vec_div(vec_where_negative(x, e, one), vec_add(one, e));
}

VEC_INLINE vec vec_silu(vec x) { return vec_mul(x, vec_sigmoid(x)); }

VEC_INLINE vec vec_gelu(vec x) {
    vec inner = vec_fma(vec_all(EXACT_GELU_CUBIC), vec_mul(x, x), vec_all(EXACT_GELU_LINEAR));
    return vec_mul(x, vec_sigmoid(vec_mul(x, inner)));
}

#endif
