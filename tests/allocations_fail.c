/* allocations_fail: refuses the first allocation, then the second, and so on, until all succeed.
 *
 *     allocations_fail MODEL.gguf
 *
 * Each time a model is opened, text becomes tokens, an engine and sessions are opened, a prompt is
 * fed, tokens are drawn, blocks are copied and a tensor is quantized. A refusal must arrive as an
 * error of the call it happened in; the same call then succeeds, and in the end everything is given
 * back. The engine's own calls of the allocator are caught by the linker (--wrap), nobody else's.
 * Prints how many allocations there were. Exit 1 where one was not answered with an error.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "localllm_measure.h"
#include "localllm_quantize.h"

/* ---- the allocator ----------------------------------------------------------------------------
 */

static long n_until_refusal = -1; /* -1: nothing is refused */
static long n_outstanding, n_refused;

static bool refuses(void) {
    if (n_until_refusal < 0 || n_until_refusal-- > 0) return false;
    n_refused++;
    errno = ENOMEM;
    return true;
}

static void *counted(void *memory) {
    if (memory != NULL) (void)__atomic_add_fetch(&n_outstanding, 1, __ATOMIC_SEQ_CST);
    return memory;
}

void *__real_malloc(size_t n_bytes);
void *__real_calloc(size_t n, size_t n_bytes);
void *__real_realloc(void *memory, size_t n_bytes);
void *__real_aligned_alloc(size_t alignment, size_t n_bytes);
void __real_free(void *memory);
void *__real_mmap(void *at, size_t n_bytes, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *memory, size_t n_bytes);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *arg);

void *__wrap_malloc(size_t n_bytes);
void *__wrap_calloc(size_t n, size_t n_bytes);
void *__wrap_realloc(void *memory, size_t n_bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t n_bytes);
void __wrap_free(void *memory);
void *__wrap_mmap(void *at, size_t n_bytes, int protection, int flags, int fd, off_t offset);
int __wrap_munmap(void *memory, size_t n_bytes);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *arg);

void *__wrap_malloc(size_t n_bytes) { return refuses() ? NULL : counted(__real_malloc(n_bytes)); }

void *__wrap_calloc(size_t n, size_t n_bytes) {
    return refuses() ? NULL : counted(__real_calloc(n, n_bytes));
}

void *__wrap_realloc(void *memory, size_t n_bytes) {
    if (refuses()) return NULL;
    void *grown = __real_realloc(memory, n_bytes);
    return memory == NULL ? counted(grown) : grown;
}

void *__wrap_aligned_alloc(size_t alignment, size_t n_bytes) {
    return refuses() ? NULL : counted(__real_aligned_alloc(alignment, n_bytes));
}

void __wrap_free(void *memory) {
    if (memory != NULL) (void)__atomic_sub_fetch(&n_outstanding, 1, __ATOMIC_SEQ_CST);
    __real_free(memory);
}

void *__wrap_mmap(void *at, size_t n_bytes, int protection, int flags, int fd, off_t offset) {
    if (refuses()) return MAP_FAILED;
    void *mapped = __real_mmap(at, n_bytes, protection, flags, fd, offset);
    return mapped == MAP_FAILED ? mapped : counted(mapped);
}

int __wrap_munmap(void *memory, size_t n_bytes) {
    (void)__atomic_sub_fetch(&n_outstanding, 1, __ATOMIC_SEQ_CST);
    return __real_munmap(memory, n_bytes);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *arg) {
    return refuses() ? EAGAIN : __real_pthread_create(thread, attributes, run, arg);
}

/* ---- what is tried ----------------------------------------------------------------------------
 */

enum { N_PROMPT = 150, N_DRAWN = 3, N_CTX = 256 };

/* Whether a call that failed did so because it was refused memory; nothing is refused from here. */
static bool was_refused(const char *call, const ll_error *err) {
    bool answered = n_refused == 1 && (err->code == LL_ERR_MEMORY || err->code == LL_ERR_IO);
    if (!answered)
        printf("%s failed with \"%s: %s\" after %ld refusals\n", call, ll_error_name(err->code),
               err->message, n_refused);
    n_until_refusal = -1;
    return answered;
}

/* Calls, and where the call was refused memory calls again, which must succeed. */
#define TRY(what, call)                                                                            \
    for (ll_error err = {0}; !(call);) {                                                           \
        if (!was_refused(what, &err)) exit(1);                                                     \
        err = (ll_error){0};                                                                       \
        if (call) break;                                                                           \
        printf("%s fails again: %s\n", what, err.message);                                         \
        exit(1);                                                                                   \
    }

static void feed(ll_engine *engine, ll_session *session) {
    static const ll_sampling sampling = {.temperature = 1,
                                         .top_p = 0.9f,
                                         .typical_p = 1,
                                         .repeat_penalty = 1.1f,
                                         .penalty_last_n = 64};
    static ll_row rows[N_PROMPT];
    for (int i = 0; i < N_PROMPT; i++)
        rows[i] = (ll_row){.session = session, .id = i % 200, .logits = i >= N_PROMPT - 2};
    TRY("a prompt", ll_engine_step(engine, rows, N_PROMPT, &err))
    for (int i = 0; i < N_DRAWN; i++) {
        ll_draw draws[] = {
            {.row = 0,                .session = session, .sampling = &sampling},
            {.row = i == 0 ? 1u : 0u, .session = session, .sampling = &sampling},
        };
        int32_t ids[2];
        TRY("two draws", ll_engine_sample(engine, draws, 2, ids, &err))
        ll_row row = {.session = session, .id = ids[1], .logits = true};
        TRY("a token", ll_engine_step(engine, &row, 1, &err))
    }
}

static void copy_blocks(ll_engine *engine, ll_session *from, ll_session *to) {
    static char kv[1 << 20];
    static int32_t ids[LL_BLOCK_TOKENS];
    size_t n_bytes = ll_engine_block_bytes(engine);
    if (n_bytes > sizeof kv) exit(2);
    for (int i = 0; i < LL_BLOCK_TOKENS; i++) ids[i] = i % 200;
    TRY("a block out", ll_session_get_block(from, 0, kv, &err))
    TRY("a block in", ll_session_put_block(to, ids, kv, n_bytes, &err))
}

static void run_engine(const ll_model *model) {
    ll_engine_options options = {.n_ctx = N_CTX, .n_sessions = 2, .n_logits = 2, .n_threads = 3};
    ll_engine *engine = NULL;
    ll_session *one = NULL, *two = NULL;
    TRY("an engine", (engine = ll_engine_open(model, &options, &err)) != NULL)
    TRY("a session", (one = ll_session_open(engine, &err)) != NULL)
    TRY("a second session", (two = ll_session_open(engine, &err)) != NULL)
    feed(engine, one);
    copy_blocks(engine, one, two);
    TRY("a profile", ll_engine_set_profile(engine, true, &err))
    TRY("importance", ll_engine_set_importance(engine, true, &err))
    ll_row row = {.session = two, .id = 3, .logits = true};
    TRY("a profiled token", ll_engine_step(engine, &row, 1, &err))
    ll_session_close(two);
    ll_session_close(one);
    ll_engine_close(engine);
}

static void quantize(int fd, const float *weights) {
    ll_quantizer *quantizer = NULL;
    ll_tensor_source source = {.fd = fd, .type = "F32", .n_rows = 4, .row_dim = 256};
    ll_tensor_target target = {.fd = fd, .offset = 4 * 256 * sizeof *weights, .quant = "Q4_K"};
    TRY("a quantizer", (quantizer = ll_quantizer_open(2, &err)) != NULL)
    TRY("a tensor", ll_quantizer_write(quantizer, &source, &target, NULL, NULL, NULL, &err))
    ll_quantizer_close(quantizer);
}

static void run_all(const char *path, int fd, const float *weights) {
    static const char text[] = "the the quick brown fox <|begin|> and\n\nthe 42 others";
    int32_t ids[128];
    size_t n_ids;
    ll_model *model = NULL;
    ll_memory plan;
    ll_engine_options options = {.n_ctx = N_CTX};
    TRY("a model", (model = ll_model_open(path, &err)) != NULL)
    TRY("a plan", ll_engine_plan(model, &options, &plan, &err))
    TRY("a text",
        ll_tokenize(model, text, sizeof text - 1, LL_PARSE_CONTROL, true, ids, 128, &n_ids, &err))
    run_engine(model);
    ll_model_close(model);
    quantize(fd, weights);
}

int main(int argc, char **argv) {
    static float weights[4 * 256];
    for (int i = 0; i < 4 * 256; i++) weights[i] = (float)(i % 37) - 18.0f;
    FILE *file = tmpfile();
    if (argc != 2 || file == NULL) return 2;
    if (fwrite(weights, 1, sizeof weights, file) != sizeof weights || fflush(file) != 0) return 2;
    long n = 0;
    do {
        n_until_refusal = n++;
        n_refused = 0;
        long before = n_outstanding;
        run_all(argv[1], fileno(file), weights);
        if (n_outstanding != before) {
            printf("%ld allocations are not given back after refusal %ld\n", n_outstanding - before,
                   n - 1);
            return 1;
        }
    } while (n_refused > 0);
    printf("%ld\n", n - 1);
    return 0;
}
