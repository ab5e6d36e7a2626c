/* system_linux: what only Linux answers so: sleeping on a word, usable cores, the
 * processor's extensions. */
#include "base/system.h"

#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

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

#if defined(__aarch64__)
bool system_has_arm(arm_extension e) {
    switch (e) {
    case ARM_DOTPROD:
        return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
    case ARM_I8MM:
        return getauxval(AT_HWCAP2) & HWCAP2_I8MM;
    }
    return false;
}
#endif
