/* system_macos: the same questions as system_linux.c, asked of macOS. Written for it, untested. */
#include "base/system.h"

#include <sys/sysctl.h>
#include <time.h>

uint32_t system_usable_cores(void) {
    /* Performance cores where the machine tells them apart, else all. */
    int cores = 0;
    size_t n = sizeof cores;
    if (sysctlbyname("hw.perflevel0.physicalcpu", &cores, &n, NULL, 0) != 0 || cores < 1) {
        n = sizeof cores;
        if (sysctlbyname("hw.physicalcpu", &cores, &n, NULL, 0) != 0 || cores < 1) cores = 1;
    }
    return (uint32_t)cores;
}

/* macOS has no public futex; a short sleep keeps the contract ("may return early"). */
void system_wait(const uint32_t *word, uint32_t value) {
    struct timespec nap = {0, 50 * 1000};
    if (__atomic_load_n(word, __ATOMIC_ACQUIRE) == value) (void)nanosleep(&nap, NULL);
}

void system_wake_all(const uint32_t *word) { (void)word; }

#if defined(__aarch64__)
bool system_has_arm(arm_extension e) {
    static const char *const keys[] = {
        [ARM_DOTPROD] = "hw.optional.arm.FEAT_DotProd",
        [ARM_I8MM] = "hw.optional.arm.FEAT_I8MM",
    };
    int has = 0;
    size_t n = sizeof has;
    return sysctlbyname(keys[e], &has, &n, NULL, 0) == 0 && has;
}
#endif
