/* system: everything that the engine asks of the operating system. What differs from one to the
 * next is one file a system (system_linux.c, system_macos.c); what they share is system_posix.c.
 */
#ifndef LL_BASE_SYSTEM_H
#define LL_BASE_SYSTEM_H

#include "base/error.h"

/* Maps a whole file read-only and shared. An empty file maps to NULL with *n_bytes = 0. */
bool system_map_file(const char *path, const void **data, size_t *n_bytes, ll_error *err);
bool system_file_exists(const char *path);
void system_unmap(const void *data, size_t n_bytes);

/* Zeroed, page-aligned memory that costs nothing until touched. NULL: refused. */
void *system_reserve(size_t n_bytes);
/* The same in huge pages, where the system has them to give. */
void *system_reserve_huge(size_t n_bytes);
void system_release(void *memory, size_t n_bytes);
/* How many bytes of reserved memory have been touched, in whole pages. */
size_t system_resident(const void *memory, size_t n_bytes);

/* Cores this process may use: the smaller of its affinity and its cgroup quota, at least 1. */
uint32_t system_usable_cores(void);
/* Linux: the quota of this process's cgroups (v1 and v2) in cores, rounded up, at most `none`.
 * `root` is what /proc and /sys lie in: "" but for a test. */
uint32_t system_quota_cores(const char *root, uint32_t none);

void system_yield(void); /* lets another thread that waits for this core run first */

/* Sleeps until *word differs from `value` or somebody wakes it; may return early. */
void system_wait(const uint32_t *word, uint32_t value);
void system_wake_all(const uint32_t *word);

double system_seconds(void); /* monotonic */

#if defined(__aarch64__)
/* Whether programs may use an optional part of the ARM architecture; only the system can say. */
typedef enum arm_extension { ARM_DOTPROD, ARM_I8MM } arm_extension;
bool system_has_arm(arm_extension e);
#endif

#endif
