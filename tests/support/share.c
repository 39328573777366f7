/*
 * A network share that lacks things, for tests: preloaded into the program.
 *
 * JARVIS_NO_LOCKS=1   flock(2) fails with ENOLCK, also where it is called without the C library
 * JARVIS_NO_SYNC=DIR  files below DIR cannot be synced: fsync(2) fails with EINVAL
 *
 * Build: cc -O2 -shared -fPIC -o share.so share.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((constructor)) static void without_locks(void)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_flock, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOLCK),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = { sizeof rules / sizeof *rules, rules };

    if (!getenv("JARVIS_NO_LOCKS"))
        return;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
        || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0)
        abort();
}

int fsync(int fd)
{
    static int (*real)(int);
    const char *dir = getenv("JARVIS_NO_SYNC");
    char link[64], path[4096];
    ssize_t n;

    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = dir ? readlink(link, path, sizeof path - 1) : -1;
    if (n > 0 && strncmp(path, dir, strlen(dir)) == 0) {
        errno = EINVAL;
        return -1;
    }
    return real(fd);
}
