/* device_fails: what the engine does with a device that is not the CPU's: one whose copies fail,
 * one that lacks what a device may lack, one with memory of its own.
 *
 *     device_fails CASE MODEL.gguf
 *
 * The device is the CPU's with some of its functions replaced. The linker (--wrap) puts it in the
 * place of device_find, so an engine is opened on it by the name "odd". Exit 1, and a line, where
 * something is not as it should be.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cpu/cpu.h"
#include "localllm_measure.h"

enum { N_CTX = 256, N_TRIES = 20, MOST_BYTES = 1 << 20, OWN_BYTES = 12345 };

static int n_failures;

#define CHECK(truth)                                                                               \
    do {                                                                                           \
        if (!(truth)) {                                                                            \
            printf("line %d: not so: %s\n", __LINE__, #truth);                                     \
            n_failures++;                                                                          \
        }                                                                                          \
    } while (0)

/* ---- the device ------------------------------------------------------------------------------ */

static device_kind odd;
static long n_until_failure = -1; /* copies that still succeed; -1: all */

const device_kind *__real_device_find(const char *name, ll_error *err);
const device_kind *__wrap_device_find(const char *name, ll_error *err);

const device_kind *__wrap_device_find(const char *name, ll_error *err) {
    return name != NULL && strcmp(name, "odd") == 0 ? &odd : __real_device_find(name, err);
}

/* Whether this copy fails, and with it all that follow. */
static bool fails(ll_error *err) {
    if (n_until_failure < 0 || n_until_failure > 0) {
        n_until_failure -= n_until_failure > 0;
        return false;
    }
    return !ll_fail(err, LL_ERR_IO, "the device is gone");
}

static bool odd_get_block(const device *d, uint32_t group, uint32_t block, void *out,
                          ll_error *err) {
    return !fails(err) && device_cpu.get_block(d, group, block, out, err);
}

/* A target is undefined after a failure, and here it is. */
static void spoil(device *d, uint32_t group, uint32_t block) {
    static char garbage[MOST_BYTES];
    memset(garbage, 0x5a, sizeof garbage);
    if (device_cpu.block_bytes(d, group) > sizeof garbage) exit(2);
    (void)device_cpu.put_block(d, group, block, garbage, NULL);
}

static bool odd_put_block(device *d, uint32_t group, uint32_t block, const void *kv,
                          ll_error *err) {
    if (!fails(err)) return device_cpu.put_block(d, group, block, kv, err);
    spoil(d, group, block);
    return false;
}

static bool odd_copy_block(device *d, uint32_t group, uint32_t from, uint32_t to, ll_error *err) {
    if (!fails(err)) return device_cpu.copy_block(d, group, from, to, err);
    spoil(d, group, to);
    return false;
}

static bool odd_plan_memory(const plan *p, const device_options *options, ll_memory *out,
                            ll_error *err) {
    if (!device_cpu.plan_memory(p, options, out, err)) return false;
    out->device_bytes = OWN_BYTES;
    return true;
}

static bool odd_own_memory(uint64_t *free_bytes, uint64_t *total_bytes, ll_error *err) {
    if (fails(err)) return false;
    *free_bytes = OWN_BYTES;
    *total_bytes = 2 * OWN_BYTES;
    return true;
}

static const char *odd_arithmetic(const device *d) {
    (void)d;
    return "odd.2";
}

static void make_odd(void) {
    odd = device_cpu;
    odd.name = "odd";
    odd.get_block = odd_get_block;
    odd.put_block = odd_put_block;
    odd.copy_block = odd_copy_block;
    odd.plan_memory = odd_plan_memory;
    odd.own_memory = odd_own_memory;
    odd.arithmetic = odd_arithmetic;
    odd.run_tasks = NULL;
    odd.set_profile = NULL;
    odd.get_profile = NULL;
    odd.set_importance = NULL;
    odd.get_importance = NULL;
}

/* ---- an engine on it ------------------------------------------------------------------------- */

/* Text i, which begins as every other one does up to `shared`. */
static int32_t id_of(uint32_t text, uint32_t position, uint32_t shared) {
    return (int32_t)((position * 7 + (position < shared ? 0 : text * 31)) % 200);
}

static bool feed(ll_engine *e, ll_session *s, const int32_t *ids, uint32_t n, ll_error *err) {
    static ll_row rows[N_CTX];
    for (uint32_t i = 0; i < n; i++) rows[i] = (ll_row){s, ids[i], i == n - 1};
    return ll_engine_step(e, rows, n, err);
}

/* The logits behind a text that is computed from nothing, by a session of its own. */
static void expect(ll_engine *e, const int32_t *ids, uint32_t n, size_t n_bytes, float *out) {
    ll_error err = {0};
    ll_session *s = ll_session_open(e, &err);
    size_t n_kept;
    CHECK(s != NULL && feed(e, s, ids, n, &err));
    memcpy(out, ll_engine_logits(e, &n_kept), n_bytes);
    ll_session_close(s);
}

static ll_engine *open_odd(const ll_model *model, uint32_t n_sessions, uint32_t n_batch) {
    ll_error err = {0};
    ll_engine_options options = {.n_ctx = N_CTX,
                                 .n_sessions = n_sessions,
                                 .n_batch = n_batch,
                                 .n_threads = 2,
                                 .device = "odd"};
    ll_engine *e = ll_engine_open(model, &options, &err);
    if (e == NULL) {
        printf("no engine: %s\n", err.message);
        exit(1);
    }
    return e;
}

static size_t logit_bytes(const ll_model *model) {
    return ll_model_get_info(model)->n_vocab * sizeof(float);
}

/* ---- cases ----------------------------------------------------------------------------------- */

/* Two sessions hold a block that is not full; whoever goes on must copy it first. However many of
 * the groups' copies succeed, a step that fails leaves both as they were. */
static void copy_before_a_step(const ll_model *model) {
    ll_engine *e = open_odd(model, 3, 0), *plain = open_odd(model, 3, 0);
    size_t n_bytes = logit_bytes(model), n_kept;
    float *expected = malloc(n_bytes);
    int32_t first[130], other[130];
    for (uint32_t i = 0; i < 130; i++) {
        first[i] = id_of(0, i, 0);
        other[i] = id_of(1, i, 100);
    }
    ll_error err = {0};
    ll_session *a = ll_session_open(e, &err), *b = ll_session_open(e, &err);
    CHECK(a != NULL && b != NULL && feed(e, a, first, 130, &err));
    CHECK(ll_session_reuse(b, first, 128) == 128);
    CHECK(ll_session_truncate(b, 100) == 100);
    for (long i = 0; i < 4 * N_TRIES; i++) { /* a block lost at each would soon be the last */
        err = (ll_error){0};
        n_until_failure = i / N_TRIES;
        bool ok = feed(e, b, other + 100, 1, &err);
        n_until_failure = -1;
        if (ok) {
            CHECK(i >= N_TRIES); /* a copy was made */
            break;
        }
        CHECK(err.code == LL_ERR_IO && strcmp(err.message, "the device is gone") == 0);
        CHECK(ll_session_n_tokens(a) == 130 && ll_session_n_tokens(b) == 100);
    }
    CHECK(ll_session_n_tokens(b) == 101);
    expect(plain, other, 130, n_bytes, expected);
    CHECK(feed(e, b, other + 101, 29, &err));
    CHECK(memcmp(ll_engine_logits(e, &n_kept), expected, n_bytes) == 0);
    /* The one they shared it with goes on as if nothing had been. */
    int32_t more[131];
    memcpy(more, first, sizeof first);
    more[130] = 5;
    expect(plain, more, 131, n_bytes, expected);
    CHECK(feed(e, a, more + 130, 1, &err));
    CHECK(memcmp(ll_engine_logits(e, &n_kept), expected, n_bytes) == 0);
    free(expected);
    ll_session_close(a);
    ll_session_close(b);
    ll_engine_close(e);
    ll_engine_close(plain);
}

/* Blocks out and in: an error, a session with the tokens it had, and the next try succeeds. Steps
 * of two rows leave layers with a window two blocks, so the third takes the place of one. */
static void copy_of_blocks(const ll_model *model) {
    ll_engine *e = open_odd(model, 1, 2), *plain = open_odd(model, 2, 0);
    size_t n_bytes = logit_bytes(model), n_block = ll_engine_block_bytes(e), n_kept;
    float *expected = malloc(n_bytes);
    char *kv = malloc(3 * n_block);
    int32_t ids[194];
    for (uint32_t i = 0; i < 194; i++) ids[i] = id_of(0, i, 0);
    ll_error err = {0};
    ll_session *a = ll_session_open(plain, &err), *b = ll_session_open(e, &err);
    CHECK(a != NULL && b != NULL && feed(plain, a, ids, 194, &err));
    n_until_failure = 0;
    CHECK(!ll_session_get_block(a, 0, kv, &err) && err.code == LL_ERR_IO);
    n_until_failure = -1;
    err = (ll_error){0};
    for (uint32_t i = 0; i < 3; i++) CHECK(ll_session_get_block(a, i, kv + i * n_block, &err));
    for (uint32_t i = 0; i < 3; i++) {
        bool ok = false;
        for (long n = 0; n < 4 * N_TRIES && !ok; n++) {
            err = (ll_error){0};
            n_until_failure = n / N_TRIES;
            ok =
                ll_session_put_block(b, ids + i * LL_BLOCK_TOKENS, kv + i * n_block, n_block, &err);
            n_until_failure = -1;
            CHECK(ok ? n >= N_TRIES : err.code == LL_ERR_IO);
            CHECK(ll_session_n_tokens(b) == (i + (ok ? 1 : 0)) * LL_BLOCK_TOKENS);
        }
        CHECK(ok);
    }
    expect(plain, ids, 194, n_bytes, expected);
    CHECK(feed(e, b, ids + 192, 2, &err));
    CHECK(memcmp(ll_engine_logits(e, &n_kept), expected, n_bytes) == 0);
    free(kv);
    free(expected);
    ll_session_close(a);
    ll_session_close(b);
    ll_engine_close(e);
    ll_engine_close(plain);
}

static bool says(const ll_error *err, ll_error_code code, const char *text) {
    bool so = err->code == code && strcmp(err->message, text) == 0;
    if (!so) printf("%s: %s\n", ll_error_name(err->code), err->message);
    return so;
}

static void lacking_functions(const ll_model *model) {
    ll_engine *e = open_odd(model, 1, 0);
    ll_error err = {0};
    size_t n = 1;
    CHECK(!ll_engine_set_profile(e, true, &err));
    CHECK(says(&err, LL_ERR_UNSUPPORTED, "the device \"odd\" does not time its phases"));
    CHECK(ll_engine_get_profile(e, &n) == NULL && n == 0);
    err = (ll_error){0};
    CHECK(!ll_engine_set_importance(e, true, &err));
    CHECK(says(&err, LL_ERR_UNSUPPORTED, "the device \"odd\" does not collect importance"));
    n = 1;
    CHECK(ll_engine_get_importance(e, &n) == NULL && n == 0);
    /* Draws without threads of the device are the same ones. */
    static const ll_sampling sampling = {
        .temperature = 1, .top_p = 1, .typical_p = 1, .repeat_penalty = 1, .seed = 5};
    ll_session *s = ll_session_open(e, &err);
    int32_t ids[] = {1, 2, 3}, drawn[3], alone = -1;
    CHECK(s != NULL && feed(e, s, ids, 3, &err));
    ll_draw draws[] = {
        {0, s, &sampling},
        {0, s, &sampling},
        {0, s, &sampling}
    };
    CHECK(ll_engine_sample(e, draws, 3, drawn, &err) &&
          ll_engine_sample(e, draws, 1, &alone, &err));
    CHECK(drawn[0] == alone && drawn[1] == alone && drawn[2] == alone);
    ll_session_close(s);
    CHECK(strcmp(ll_engine_device(e), "odd") == 0);
    CHECK(strcmp(ll_engine_arithmetic(e), "odd.2-1") == 0);
    ll_engine_close(e);
}

static void own_memory(const ll_model *model) {
    ll_error err = {0};
    ll_memory with = {0}, without = {0};
    ll_device_info info;
    ll_engine_options options = {.n_ctx = N_CTX, .n_threads = 2};
    CHECK(ll_engine_plan(model, &options, &without, &err) && without.device_bytes == 0);
    options.device = "odd";
    CHECK(ll_engine_plan(model, &options, &with, &err) && with.device_bytes == OWN_BYTES);
    with.device_bytes = 0;
    CHECK(memcmp(&with, &without, sizeof with) == 0);
    CHECK(ll_device_get_info("odd", &info, &err) && info.free_bytes == OWN_BYTES &&
          info.total_bytes == 2 * OWN_BYTES && strcmp(info.name, "odd") == 0);
    CHECK(ll_device_get_info(NULL, &info, &err) && info.total_bytes == 0);
    n_until_failure = 0;
    CHECK(!ll_device_get_info("odd", &info, &err) && err.code == LL_ERR_IO);
    n_until_failure = -1;
    options.kernels = "abacus";
    err = (ll_error){0};
    CHECK(!ll_engine_plan(model, &options, &with, &err) && err.code == LL_ERR_ARGUMENT);
}

static const struct {
    const char *name;
    void (*run)(const ll_model *model);
} cases[] = {
    {"step",   copy_before_a_step},
    {"blocks", copy_of_blocks    },
    {"lacks",  lacking_functions },
    {"memory", own_memory        },
};

int main(int argc, char **argv) {
    ll_error err = {0};
    ll_model *model = argc == 3 ? ll_model_open(argv[2], &err) : NULL;
    if (model == NULL) return 2;
    make_odd();
    bool known = false;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (strcmp(cases[i].name, argv[1]) != 0) continue;
        cases[i].run(model);
        known = true;
    }
    ll_model_close(model);
    return known ? n_failures > 0 : 2;
}
