/* kv: the types that keys and values are stored in, and where each element of a chunk lies.
 *
 * A chunk is KV_CHUNK positions of one head. Keys lie channel by channel, values position by
 * position, so that a register holds many keys of one channel or many channels of one value. A
 * quantized element is its code times the scale that it shares with the other channels of its block
 * at its position: a position is rounded once, when it enters, whatever its neighbours are.
 *
 *   KV_F16   keys   f16 [head_dim][KV_CHUNK]
 *            values f16 [KV_CHUNK][head_dim]
 *   KV_Q8_0  keys   int8 [head_dim][KV_CHUNK], then f16 scales [n_blocks][KV_CHUNK]
 *            values int8 [KV_CHUNK][head_dim], then f16 scales [KV_CHUNK][n_blocks]
 *   KV_Q4_0  keys   u4 [head_dim / 2][KV_CHUNK][2], then scales as Q8_0's
 *            values u4 [KV_CHUNK][head_dim], then scales as Q8_0's
 *
 * where n_blocks = ceil(head_dim / KV_BLOCK_DIM), and of two u4 the low one comes first. Codes and
 * scales of Q8_0 are those of acts_quantize (format/acts.h, ACTS_Q8_32), those of Q4_0 of
 * kv_round_q4; scales are rounded to F16. Code, less 8 where it is a u4, times scale is exact in
 * f32.
 *
 * Some channels of keys are far larger than the others and would leave 4 bits to those alone. So a
 * head that Q4_0 stores is rotated first, which spreads every channel over all of them: keys and
 * queries alike, so that scores stay what they were; values, and their weighted sum back.
 */
#ifndef LL_FORMAT_KV_H
#define LL_FORMAT_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    KV_CHUNK = 64,
    KV_BLOCK_DIM = 32,
    BLOCK_POSITIONS = KV_CHUNK, /* positions of one KV block: a chunk of each layer and head */
};

typedef enum kv_type { KV_F16, KV_Q8_0, KV_Q4_0, KV_TYPE_COUNT } kv_type;

extern const char *const kv_names[KV_TYPE_COUNT];

/* The type of that name; false where there is none. */
bool kv_find(const char *name, kv_type *out);

static inline size_t kv_n_blocks(size_t head_dim) {
    return (head_dim + KV_BLOCK_DIM - 1) / KV_BLOCK_DIM;
}

/* Bytes of one position's keys, or values, of one head; those of a chunk are KV_CHUNK times that.
 */
size_t kv_position_bytes(kv_type type, size_t head_dim);

/* The scales of a chunk's keys or values; of F16, which has none, the end of its numbers. */
uint16_t *kv_scales(kv_type type, const void *memory, size_t head_dim);

/* Whether heads are rotated before they are stored. */
static inline bool kv_rotates(kv_type type) { return type == KV_Q4_0; }

/* The Walsh-Hadamard transform of the head's channels, its own inverse, in groups of the largest
 * power of two that divides head_dim: butterflies of neighbours first, then a division by the root
 * of the group's size. */
void kv_rotate(float *x, size_t head_dim);

/* Rounds KV_BLOCK_DIM values to codes of -8 to 7: the value of the largest magnitude becomes -8,
 * which makes d, the others x * (1 / d) to nearest even, 7 at most. Returns d; zero and values that
 * are not finite as acts_quantize. */
float kv_round_q4(const float *x, int8_t *codes);

/* The scalar truth: the key of position j and the value of position j, channel by channel. */
float kv_key(kv_type type, const void *keys, size_t head_dim, size_t j, size_t channel);
float kv_value(kv_type type, const void *values, size_t head_dim, size_t j, size_t channel);

#endif
