/* quant_formats: every stored format of weights as one list, from which the enum, the table, the
 * declarations and the kernels' tables are made.
 *
 * The parts differ in how a block lies in memory, and so in what instruction sets share: floats,
 * blocks of 32 values, superblocks of 256. A new format begins in QUANTS_SCALAR, where its scalar
 * functions serve every processor; with an unpack for each instruction set its line moves into its
 * part.
 */
#ifndef LL_FORMAT_QUANT_FORMATS_H
#define LL_FORMAT_QUANT_FORMATS_H

/* X(name, function stem, ggml's number, values a block, bytes a block, activations) */
#define QUANTS_FLOAT(X)                                                                            \
    X(F32, f32, 0, 1, sizeof(float), ACTS_F32)                                                     \
    X(F16, f16, 1, 1, sizeof(uint16_t), ACTS_F32)                                                  \
    X(BF16, bf16, 30, 1, sizeof(uint16_t), ACTS_BF16)

#define QUANTS_32(X)                                                                               \
    X(Q4_0, q4_0, 2, QUANT_DIM_32, sizeof(block_q4_0), ACTS_Q8_32)                                 \
    X(Q4_1, q4_1, 3, QUANT_DIM_32, sizeof(block_q4_1), ACTS_Q8_32)                                 \
    X(Q5_0, q5_0, 6, QUANT_DIM_32, sizeof(block_q5_0), ACTS_Q8_32)                                 \
    X(Q5_1, q5_1, 7, QUANT_DIM_32, sizeof(block_q5_1), ACTS_Q8_32)                                 \
    X(Q8_0, q8_0, 8, QUANT_DIM_32, sizeof(block_q8_0), ACTS_Q8_32)                                 \
    X(IQ4_NL, iq4_nl, 20, QUANT_DIM_32, sizeof(block_iq4_nl), ACTS_Q8_32)                          \
    X(MXFP4, mxfp4, 39, QUANT_DIM_32, sizeof(block_mxfp4), ACTS_Q8_32)

#define QUANTS_256(X)                                                                              \
    X(Q2_K, q2_k, 10, QUANT_DIM_K, sizeof(block_q2_k), ACTS_Q8_256)                                \
    X(Q3_K, q3_k, 11, QUANT_DIM_K, sizeof(block_q3_k), ACTS_Q8_256)                                \
    X(Q4_K, q4_k, 12, QUANT_DIM_K, sizeof(block_q4_k), ACTS_Q8_256)                                \
    X(Q5_K, q5_k, 13, QUANT_DIM_K, sizeof(block_q5_k), ACTS_Q8_256)                                \
    X(Q6_K, q6_k, 14, QUANT_DIM_K, sizeof(block_q6_k), ACTS_Q8_256)                                \
    X(IQ4_XS, iq4_xs, 23, QUANT_DIM_K, sizeof(block_iq4_xs), ACTS_Q8_256)

#define QUANTS_SCALAR(X) /* none */

/* Those that every instruction set has kernels for, and all. */
#define QUANTS_FAST(X) QUANTS_FLOAT(X) QUANTS_32(X) QUANTS_256(X)
#define QUANTS(X)      QUANTS_FAST(X) QUANTS_SCALAR(X)

#endif
