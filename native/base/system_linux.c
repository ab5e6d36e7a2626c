/* system_linux: what the engine asks of Linux: mappings, sleeping on a word, usable cores, time. */
#include "base/system.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
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

void system_unmap(const void *data, size_t n_bytes) {
    if (data != NULL) (void)munmap((void *)(uintptr_t)data, n_bytes);
}

void *system_reserve(size_t n_bytes) {
    if (n_bytes == 0) n_bytes = 1;
    void *memory = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void system_release(void *memory, size_t n_bytes) {
    if (memory != NULL) (void)munmap(memory, n_bytes == 0 ? 1 : n_bytes);
}

void system_forget(void *memory, size_t n_bytes) { (void)madvise(memory, n_bytes, MADV_DONTNEED); }

/* Reads a small file into text; false where it is absent or unreadable. */
static bool read_text(const char *path, char *text, size_t capacity) {
    FILE *f = fopen(path, "re");
    if (f == NULL) return false;
    size_t n = fread(text, 1, capacity - 1, f);
    text[n] = '\0';
    (void)fclose(f);
    return n > 0;
}

static uint32_t whole_cores(long long quota, long long period, uint32_t none) {
    if (quota <= 0 || period <= 0) return none;
    long long cores = (quota + period - 1) / period;
    return cores < (long long)none ? (uint32_t)cores : none;
}

/* The smallest CPU quota from this process's cgroup up to the root (v2), else the v1 quota. */
static uint32_t quota_cores(uint32_t none) {
    char text[4096], path[4352], limit[64];
    uint32_t least = none;
    if (!read_text("/proc/self/cgroup", text, sizeof text)) return none;
    char *v2 = strstr(text, "0::");
    if (v2 != NULL && (v2 == text || v2[-1] == '\n')) {
        char *group = v2 + 3;
        group[strcspn(group, "\n")] = '\0';
        for (;;) {
            long long quota, period;
            (void)snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
            if (read_text(path, limit, sizeof limit) &&
                sscanf(limit, "%lld %lld", &quota, &period) == 2)
                least = whole_cores(quota, period, least);
            char *slash = strrchr(group, '/');
            if (slash == NULL) break;
            *slash = '\0';
        }
    }
    char quota_text[64], period_text[64];
    if (read_text("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota_text, sizeof quota_text) &&
        read_text("/sys/fs/cgroup/cpu/cpu.cfs_period_us", period_text, sizeof period_text))
        least = whole_cores(atoll(quota_text), atoll(period_text), least);
    return least;
}

uint32_t system_usable_cores(void) {
    cpu_set_t set;
    uint32_t cores = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        cores = (uint32_t)CPU_COUNT(&set);
    } else { /* more processors than the fixed set holds */
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        if (online > 0) cores = (uint32_t)online;
    }
    cores = quota_cores(cores);
    return cores > 0 ? cores : 1;
}

void system_wait(const uint32_t *word, uint32_t value) {
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

void system_wake_all(const uint32_t *word) {
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 0x7fffffff, NULL, NULL, 0);
}

double system_seconds(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
