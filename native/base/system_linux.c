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

/* Where the quota of a group stands; both are in microseconds. */
typedef bool read_quota(const char *folder, long long *quota, long long *period);

static bool read_number(const char *folder, const char *name, long long *number) {
    char path[4608], text[64];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    if (!read_text(path, text, sizeof text)) return false;
    *number = atoll(text);
    return true;
}

static bool read_v1(const char *folder, long long *quota, long long *period) {
    return read_number(folder, "cpu.cfs_quota_us", quota) &&
           read_number(folder, "cpu.cfs_period_us", period);
}

static bool read_v2(const char *folder, long long *quota, long long *period) {
    char path[4608], text[64];
    (void)snprintf(path, sizeof path, "%s/cpu.max", folder);
    return read_text(path, text, sizeof text) && sscanf(text, "%lld %lld", quota, period) == 2;
}

/* Whether a list of n bytes, separated by commas, names the controller. */
static bool list_names(const char *list, size_t n, const char *controller) {
    size_t length = strlen(controller);
    for (size_t at = 0, end; at <= n; at = end + 1) {
        for (end = at; end < n && list[end] != ',';) end++;
        if (end - at == length && memcmp(list + at, controller, length) == 0) return true;
    }
    return false;
}

/* The group of a controller in the lines id:controllers:group of `groups`; the line of v2 has an
 * empty list. Empty where there is none. */
static void find_group(const char *groups, const char *controller, char *group, size_t capacity) {
    group[0] = '\0';
    for (const char *line = groups; *line != '\0';) {
        size_t n = strcspn(line, "\n");
        const char *end = line + n;
        const char *list = memchr(line, ':', n);
        const char *path = list == NULL ? NULL : memchr(list + 1, ':', (size_t)(end - list - 1));
        if (path != NULL && list_names(list + 1, (size_t)(path - list - 1), controller))
            (void)snprintf(group, capacity, "%.*s", (int)(end - path - 1), path + 1);
        line = end + (*end == '\n');
    }
}

/* The smallest quota from a group up to the root. A container may not see its own group's folder,
 * but then it sees the group as the root. */
static uint32_t least_quota(const char *root, const char *mount, char *group, read_quota *read,
                            uint32_t least) {
    for (;;) {
        char folder[4500];
        long long quota, period;
        (void)snprintf(folder, sizeof folder, "%s/sys/fs/cgroup%s%s", root, mount, group);
        if (read(folder, &quota, &period)) least = whole_cores(quota, period, least);
        char *slash = strrchr(group, '/');
        if (slash == NULL) return least;
        *slash = '\0';
    }
}

uint32_t system_quota_cores(const char *root, uint32_t none) {
    char groups[4096], group[4096], path[256];
    (void)snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    if (!read_text(path, groups, sizeof groups)) return none;
    find_group(groups, "", group, sizeof group);
    none = least_quota(root, "", group, read_v2, none);
    /* Where the usual link to the mount of both controllers is missing, the second name counts. */
    static const char *const mounts_v1[] = {"/cpu", "/cpu,cpuacct"};
    for (int i = 0; i < 2; i++) {
        find_group(groups, "cpu", group, sizeof group);
        none = least_quota(root, mounts_v1[i], group, read_v1, none);
    }
    return none;
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
    cores = system_quota_cores("", cores);
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
