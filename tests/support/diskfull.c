/*
 * A full disk for a Postgres server, for tests: preloaded into its processes.
 *
 * While the file named by JARVIS_DISKFULL exists, a table's file (anything below /base/) cannot grow: the system call
 * that would do it fails with ENOSPC, as on a real full disk. What is there already can be overwritten, and the WAL, which
 * a careful owner keeps on another disk, goes on.
 *
 * Build: cc -O2 -shared -fPIC -o diskfull.so diskfull.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* Whether writing up to `end` makes a table's file grow while the disk is full. */
static int refused(int fd, off_t end)
{
    const char *flag = getenv("JARVIS_DISKFULL");
    char link[64], path[512];
    struct stat s;
    ssize_t n;

    if (!flag || access(flag, F_OK) != 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof path - 1);
    if (n <= 0)
        return 0;
    path[n] = 0;
    if (!strstr(path, "/base/") || fstat(fd, &s) != 0 || end <= s.st_size)
        return 0;
    errno = ENOSPC;
    return 1;
}

static off_t total(const struct iovec *v, int n)
{
    off_t sum = 0;
    while (n-- > 0)
        sum += (off_t)v[n].iov_len;
    return sum;
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
    REAL(pwrite);
    return refused(fd, at + (off_t)n) ? -1 : real(fd, data, n, at);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at)
{
    REAL(pwrite64);
    return refused(fd, at + (off_t)n) ? -1 : real(fd, data, n, at);
}

ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at)
{
    REAL(pwritev);
    return refused(fd, at + total(v, n)) ? -1 : real(fd, v, n, at);
}

ssize_t pwritev64(int fd, const struct iovec *v, int n, off64_t at)
{
    REAL(pwritev64);
    return refused(fd, at + total(v, n)) ? -1 : real(fd, v, n, at);
}

int posix_fallocate(int fd, off_t at, off_t n)
{
    REAL(posix_fallocate);
    return refused(fd, at + n) ? ENOSPC : real(fd, at, n);
}

int posix_fallocate64(int fd, off64_t at, off64_t n)
{
    REAL(posix_fallocate64);
    return refused(fd, at + n) ? ENOSPC : real(fd, at, n);
}
