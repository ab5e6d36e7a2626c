/* gguf_fuzz: mutates one GGUF file many times and reads whatever the reader accepts to the end.
 *
 *     gguf_fuzz FILE [COUNT [SEED]]
 *
 * Built with the sanitizers, which see every byte touched out of bounds because each mutant lies
 * in an allocation of exactly its size. The same three arguments give the same mutants. Exit 1
 * where the reader breaks its contract, else 0.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/gguf.h"

static uint64_t state;

static uint64_t draw(void) { /* splitmix64 */
    uint64_t z = (state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static size_t draw_below(size_t n) { return n ? draw() % n : 0; }

/* ---- mutants ------------------------------------------------------------------------------- */

typedef struct bytes {
    uint8_t *data;
    size_t n;
} bytes;

static void flip_bit(bytes *b) {
    if (b->n) b->data[draw_below(b->n)] ^= (uint8_t)(1u << draw_below(8));
}

static void set_byte(bytes *b) {
    if (b->n) b->data[draw_below(b->n)] = (uint8_t)draw();
}

static void truncate_end(bytes *b) { b->n = draw_below(b->n + 1); }

/* The numbers that lengths and counts go wrong at. */
static uint64_t hostile_number(size_t left) {
    static const uint64_t numbers[] = {
        0,
        1,
        31,
        255,
        65535,
        UINT64_C(1) << 20,
        (UINT64_C(1) << 20) + 1,
        INT32_MAX,
        UINT32_MAX,
        INT64_MAX,
        UINT64_MAX,
        UINT64_MAX - 7,
        UINT64_C(1) << 60,
        UINT64_C(1) << 61,
        UINT64_C(1) << 63,
        UINT64_C(1) << 30,
    };
    size_t i = draw_below(sizeof numbers / sizeof numbers[0] + 4);
    if (i < sizeof numbers / sizeof numbers[0]) return numbers[i];
    return left + draw_below(5) - 2;
}

static void set_u64(bytes *b) {
    if (b->n < 8) return;
    size_t at = draw_below(b->n - 7);
    uint64_t v = hostile_number(b->n - at - 8);
    memcpy(b->data + at, &v, sizeof v);
}

static void set_u32(bytes *b) {
    if (b->n < 4) return;
    size_t at = draw_below(b->n - 3);
    uint32_t v = draw_below(2) ? (uint32_t)draw_below(16) : (uint32_t)hostile_number(b->n - at);
    memcpy(b->data + at, &v, sizeof v);
}

static void set_count(bytes *b) { /* of tensors or of keys */
    if (b->n < 24) return;
    uint64_t v = hostile_number(b->n - 24);
    memcpy(b->data + 8 + 8 * draw_below(2), &v, sizeof v);
}

static void copy_within(bytes *b) {
    size_t n = draw_below(b->n < 64 ? b->n : 64);
    memmove(b->data + draw_below(b->n - n), b->data + draw_below(b->n - n), n);
}

static void remove_within(bytes *b) {
    if (!b->n) return;
    size_t n = 1 + draw_below(b->n < 16 ? b->n : 16), at = draw_below(b->n - n + 1);
    memmove(b->data + at, b->data + at + n, b->n - at - n);
    b->n -= n;
}

typedef void mutation(bytes *b);
static mutation *const mutations[] = {flip_bit, set_byte,  truncate_end, set_u64,
                                      set_u32,  set_count, copy_within,  remove_within};

static bytes mutant(const bytes *seed) {
    bytes b = {malloc(seed->n), seed->n};
    if (!b.data) return b;
    memcpy(b.data, seed->data, seed->n);
    for (size_t i = 1 + draw_below(3); i > 0; i--)
        mutations[draw_below(sizeof mutations / sizeof mutations[0])](&b);
    uint8_t *exact = malloc(b.n ? b.n : 1);
    if (exact) memcpy(exact, b.data, b.n);
    free(b.data);
    return (bytes){exact, b.n};
}

/* ---- reading all of it --------------------------------------------------------------------- */

static uint64_t sink; /* keeps every read alive */

static void touch(const void *data, size_t n) {
    for (size_t i = 0; i < n; i++) sink += ((const uint8_t *)data)[i];
}

/* A NUL-terminated copy, as lookups want it. */
static char *copy_name(ll_string s) {
    char *name = malloc(s.n_bytes + 1);
    if (!name) return NULL;
    memcpy(name, s.data, s.n_bytes);
    name[s.n_bytes] = 0;
    return name;
}

static void read_every_way(const gguf *g, const char *key, uint64_t n_elements) {
    uint32_t u = 0;
    int32_t i = 0;
    float f = 0;
    bool b = false;
    ll_string s = {NULL, 0};
    ll_error err = {0};
    gguf_read_u32(g, key, &u, &err);
    gguf_read_i32(g, key, &i, NULL);
    gguf_read_f32(g, key, &f, &err);
    gguf_read_bool(g, key, &b, &err);
    if (gguf_read_string(g, key, &s, &err)) touch(s.data, s.n_bytes);
    for (uint64_t e = 0; e <= n_elements; e++) {
        gguf_read_u32_at(g, key, e, &u, &err);
        gguf_read_bool_at(g, key, e, &b, NULL);
    }
    sink += u + (uint32_t)i + b + (f > 0);
}

static bool read_meta(const gguf *g, const ll_meta *m) {
    char *key = copy_name(m->key);
    bool found = key && gguf_find_key(g, key) == m;
    if (found) read_every_way(g, key, m->n_elements);
    free(key);
    touch(m->data, m->n_bytes);
    const uint8_t *at = m->data;
    for (uint64_t i = 0; i < m->n_elements; i++) {
        if (m->element_type == LL_VALUE_STRING) {
            ll_string s = gguf_next_string(&at);
            touch(s.data, s.n_bytes);
        } else {
            sink += (gguf_f32_at(m, i) > 0) + (uint64_t)gguf_i32_at(m, i);
        }
    }
    return found;
}

static bool read_tensor(const gguf *g, const gguf_tensor *t) {
    char *name = copy_name(t->name);
    bool found = name && gguf_find_tensor(g, name) == t;
    free(name);
    if (t->data) touch(t->data, t->n_bytes);
    return found && t->offset <= gguf_file_bytes(g) && t->n_bytes <= gguf_file_bytes(g) - t->offset;
}

/* Whether the reader kept its contract; *accepted, whether it took the file. */
static bool read_file(const bytes *b, uint64_t file_bytes, bool *accepted) {
    ll_error err = {0};
    gguf *g = gguf_parse(b->data, b->n, file_bytes, &err);
    *accepted = g != NULL;
    if (!g) return err.code != LL_OK && err.message[0] && err.offset <= b->n;
    bool kept = err.code == LL_OK;
    for (uint64_t i = 0; i < gguf_n_meta(g); i++) kept &= read_meta(g, gguf_meta(g, i));
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++) kept &= read_tensor(g, gguf_tensors(g) + i);
    gguf_close(g);
    return kept;
}

static bool load(const char *path, bytes *out) {
    FILE *file = fopen(path, "rb");
    if (!file) return false;
    static uint8_t buffer[1 << 20];
    *out = (bytes){buffer, fread(buffer, 1, sizeof buffer, file)};
    bool whole = !ferror(file) && feof(file);
    fclose(file);
    return whole;
}

int main(int argc, char **argv) {
    bytes seed;
    if (argc < 2 || !load(argv[1], &seed)) {
        fprintf(stderr, "usage: gguf_fuzz FILE [COUNT [SEED]], FILE below 1 MiB\n");
        return 2;
    }
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 20000;
    uint64_t first = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
    uint64_t n_accepted = 0;
    bool accepted;
    if (!read_file(&seed, seed.n, &accepted) || !accepted) {
        fprintf(stderr, "gguf_fuzz: %s itself is not accepted\n", argv[1]);
        return 1;
    }
    for (uint64_t i = 0; i < count; i++) {
        state = first * UINT64_C(1000003) + i;
        bytes b = mutant(&seed);
        if (!b.data) return 2;
        /* Every fourth time as the beginning of a longer file. */
        uint64_t beyond = i % 4 ? 0 : draw_below(4096);
        bool kept = read_file(&b, b.n + beyond, &accepted);
        free(b.data);
        n_accepted += accepted;
        if (!kept) {
            fprintf(stderr,
                    "gguf_fuzz: contract broken by mutant %" PRIu64 " of seed %" PRIu64 "\n", i,
                    first);
            return 1;
        }
    }
    printf("gguf_fuzz: seed %" PRIu64 ", %" PRIu64 " mutants, %" PRIu64 " accepted (sum %" PRIu64
           ")\n",
           first, count, n_accepted, sink);
    return 0;
}
