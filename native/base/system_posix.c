/* system_posix: what Linux and macOS answer alike: mappings and time. */
#include "base/system.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

bool system_map_file(const char *path, const void **data, size_t *n_bytes, ll_error *err) {
    *data = NULL;
    *n_bytes = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return ll_fail(err, LL_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    bool ok = false;
    struct stat st;
    if (fstat(fd, &st) != 0) {
        ll_fail(err, LL_ERR_IO, "cannot read the size of %s: %s", path, strerror(errno));
        goto done;
    }
    if (!S_ISREG(st.st_mode)) {
        ll_fail(err, LL_ERR_IO, "%s is not a regular file", path);
        goto done;
    }
    *n_bytes = (size_t)st.st_size;
    if (*n_bytes > 0) {
        void *mapped = mmap(NULL, *n_bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (mapped == MAP_FAILED) {
            ll_fail(err, LL_ERR_MEMORY, "cannot map %s (%zu bytes): %s", path, *n_bytes,
                    strerror(errno));
            goto done;
        }
        *data = mapped;
    }
    ok = true;
done:
    (void)close(fd);
    return ok;
}

bool system_file_exists(const char *path) { return access(path, F_OK) == 0; }

void system_unmap(const void *data, size_t n_bytes) {
    if (data != NULL) (void)munmap((void *)(uintptr_t)data, n_bytes);
}

void *system_reserve(size_t n_bytes) {
    if (n_bytes == 0) n_bytes = 1;
    void *memory = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void *system_reserve_huge(size_t n_bytes) {
    void *memory = system_reserve(n_bytes);
#ifdef MADV_HUGEPAGE
    if (memory != NULL) (void)madvise(memory, n_bytes, MADV_HUGEPAGE);
#endif
    return memory;
}

void system_release(void *memory, size_t n_bytes) {
    if (memory != NULL) (void)munmap(memory, n_bytes == 0 ? 1 : n_bytes);
}

size_t system_resident(const void *memory, size_t n_bytes) {
    enum { PAGES = 4096 }; /* asked about at a time */
    unsigned char pages[PAGES];
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE), resident = 0;
    for (size_t at = 0; memory != NULL && at < n_bytes; at += PAGES * page_bytes) {
        size_t span = n_bytes - at < PAGES * page_bytes ? n_bytes - at : PAGES * page_bytes;
        void *answer = pages; /* of unsigned char on one system, of char on another */
        if (mincore((void *)((uintptr_t)memory + at), span, answer) != 0) return resident;
        for (size_t i = 0; i * page_bytes < span; i++) resident += (pages[i] & 1u) * page_bytes;
    }
    return resident;
}

void system_yield(void) { (void)sched_yield(); }

double system_seconds(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
