/*
 * A recorder below the program, for power-cut tests: preloaded into a process, it writes down, in order, everything that the
 * process does to the files and folders below one folder (JARVIS_POWERCUT_DIR, an absolute path without links in it) and
 * every acknowledgement that it prints.
 *
 * JARVIS_POWERCUT_LOG receives records: five little-endian 64-bit numbers (kind, handle, offset, length of the data, mark)
 * and the data. One lock covers each call together with its record, so the order of the records is the order of the
 * calls. What may be left of the files after the power went at some point of the log is worked out by powercut.rs.
 *
 *   1 OPEN     data = path; `handle` stands for it from now on; offset = 1 made by this call, 2 emptied by it
 *   2 WRITE    data at offset
 *   3 TRUNCATE offset = new length
 *   4 SYNC     everything written to the file so far is durable (recorded after fsync returned)
 *   5 DIRSYNC  every name in the folder so far is durable
 *   6 UNLINK   data = path
 *   7 RENAME   data = old path, NUL, new path
 *   8 SAID     data = what was written to standard output (recorded before it is written)
 *   9 MKDIR    data = path
 *  10 RMDIR    data = path
 *  11 LINK     data = old path, NUL, new path
 *
 * Paths are relative to the folder, which is "" itself; so is a path outside it in RENAME and LINK. `-shm` files are left out:
 * they are memory, and nobody expects them after a power cut. Calls that are not here (copy_file_range, a descriptor made by
 * dup) would go unseen; powercut.rs compares what the records add up to with what is there (`Disk::differs`).
 *
 * Build: cc -O2 -shared -fPIC -o powercut.so powercut.c -ldl -lpthread
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, WRITE, TRUNCATE, SYNC, DIRSYNC, UNLINK, RENAME, SAID, MKDIR, RMDIR, LINK };
enum { MADE = 1, EMPTIED };
enum { MARK = 0x4a525643, FDS = 4096 };

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static int64_t next_handle = 1;
/* The meaning of each descriptor: 0 nothing of ours, n the file with this handle, -n the folder with this handle. */
static int64_t of_fd[FDS];

static void record(uint64_t kind, uint64_t handle, uint64_t offset, const void *data, size_t length)
{
    uint64_t head[5] = { kind, handle, offset, length, MARK };
    struct iovec v[2] = { { head, sizeof head }, { (void *)data, length } };

    if (log_fd < 0) {
        const char *path = getenv("JARVIS_POWERCUT_LOG");
        if (!path)
            return;
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (log_fd < 0)
            abort();
    }
    /* A record by half would be worse than none. */
    if (syscall(SYS_writev, log_fd, v, 2) != (long)(sizeof head + length))
        abort();
}

/*
 * Writes the path below the folder into `name`, relative to it, and returns it; NULL if it is elsewhere.
 */
static const char *ours(int at, const char *path, char name[PATH_MAX])
{
    const char *dir = getenv("JARVIS_POWERCUT_DIR");
    char full[2 * PATH_MAX], link[32];
    size_t n = dir ? strlen(dir) : 0, m = path ? strlen(path) : 0;

    if (!n || !m)
        return NULL;
    if (*path != '/') {
        ssize_t length;
        if (at == AT_FDCWD)
            snprintf(link, sizeof link, "/proc/self/cwd");
        else
            snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        length = readlink(link, full, PATH_MAX - 1);
        if (length <= 0)
            return NULL;
        snprintf(full + length, sizeof full - (size_t)length, "/%s", path);
        path = full;
        m = strlen(path);
    }
    while (m > 1 && path[m - 1] == '/')
        m--;
    if (m < n || strncmp(path, dir, n) != 0 || (m > n && path[n] != '/'))
        return NULL;
    if (m > 4 && strncmp(path + m - 4, "-shm", 4) == 0)
        return NULL;
    if (m - n >= PATH_MAX)
        abort();
    name[0] = 0;
    if (m > n) {
        memcpy(name, path + n + 1, m - n - 1);
        name[m - n - 1] = 0;
    }
    return name;
}

static void forget(int fd)
{
    if (fd >= 0 && fd < FDS)
        of_fd[fd] = 0;
}

static int64_t of(int fd)
{
    return fd >= 0 && fd < FDS ? of_fd[fd] : 0;
}

static uint64_t handle(int fd)
{
    int64_t handle = of(fd);
    return (uint64_t)(handle < 0 ? -handle : handle);
}

static int open_ours(int at, const char *path, const char *name, int flags, mode_t mode)
{
    struct stat s;
    int there, fd;
    uint64_t how = 0;

    pthread_mutex_lock(&lock);
    there = fstatat(at, path, &s, 0) == 0;
    fd = (int)syscall(SYS_openat, at, path, flags, mode);
    if (fd >= FDS)
        abort();
    if (fd >= 0 && fstat(fd, &s) == 0) {
        if (!there)
            how = MADE;
        else if ((flags & O_TRUNC) && S_ISREG(s.st_mode))
            how = EMPTIED;
        of_fd[fd] = S_ISDIR(s.st_mode) ? -next_handle : next_handle;
        record(OPEN, (uint64_t)next_handle++, how, name, strlen(name));
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

static int open_any(int at, const char *path, int flags, mode_t mode)
{
    char buffer[PATH_MAX];
    int keep = errno;
    const char *name = ours(at, path, buffer);
    int fd;

    errno = keep;
    if (name)
        return open_ours(at, path, name, flags, mode);
    fd = (int)syscall(SYS_openat, at, path, flags, mode);
    forget(fd);
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...)
{
    MODE(flags)
    return open_any(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    MODE(flags)
    return open_any(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

int openat(int at, const char *path, int flags, ...)
{
    MODE(flags)
    return open_any(at, path, flags, mode);
}

int openat64(int at, const char *path, int flags, ...)
{
    MODE(flags)
    return open_any(at, path, flags | O_LARGEFILE, mode);
}

int creat(const char *path, mode_t mode)
{
    return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int creat64(const char *path, mode_t mode)
{
    return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC | O_LARGEFILE, mode);
}

int close(int fd)
{
    REAL(close);
    forget(fd);
    return real(fd);
}

int closedir(DIR *dir)
{
    REAL(closedir);
    forget(dirfd(dir));
    return real(dir);
}

/* Where a write without an offset goes. */
static off_t position(int fd)
{
    struct stat s;

    if ((fcntl(fd, F_GETFL) & O_APPEND) && fstat(fd, &s) == 0)
        return s.st_size;
    return lseek(fd, 0, SEEK_CUR);
}

static ssize_t written(ssize_t n, int fd, const void *data, off_t at)
{
    if (n > 0)
        record(WRITE, handle(fd), (uint64_t)at, data, (size_t)n);
    return n;
}

ssize_t write(int fd, const void *data, size_t n)
{
    REAL(write);
    ssize_t result;
    off_t at;

    if (fd == STDOUT_FILENO && getenv("JARVIS_POWERCUT_LOG")) {
        pthread_mutex_lock(&lock);
        record(SAID, 0, 0, data, n);
        pthread_mutex_unlock(&lock);
        return real(fd, data, n);
    }
    if (of(fd) <= 0)
        return real(fd, data, n);
    pthread_mutex_lock(&lock);
    at = position(fd);
    result = written(real(fd, data, n), fd, data, at);
    pthread_mutex_unlock(&lock);
    return result;
}

ssize_t writev(int fd, const struct iovec *v, int count)
{
    REAL(writev);
    ssize_t result, left;
    off_t at;
    int i;

    if (of(fd) <= 0)
        return real(fd, v, count);
    pthread_mutex_lock(&lock);
    at = position(fd);
    result = left = real(fd, v, count);
    for (i = 0; i < count && left > 0; i++) {
        ssize_t part = left < (ssize_t)v[i].iov_len ? left : (ssize_t)v[i].iov_len;
        written(part, fd, v[i].iov_base, at);
        at += part;
        left -= part;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

#define PWRITE(function, offset) \
ssize_t function(int fd, const void *data, size_t n, offset at) \
{ \
    REAL(function); \
    ssize_t result; \
    if (of(fd) <= 0) \
        return real(fd, data, n, at); \
    pthread_mutex_lock(&lock); \
    result = written(real(fd, data, n, at), fd, data, at); \
    pthread_mutex_unlock(&lock); \
    return result; \
}

PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define FTRUNCATE(function, offset) \
int function(int fd, offset length) \
{ \
    REAL(function); \
    int result; \
    if (of(fd) <= 0) \
        return real(fd, length); \
    pthread_mutex_lock(&lock); \
    result = real(fd, length); \
    if (result == 0) \
        record(TRUNCATE, handle(fd), (uint64_t)length, NULL, 0); \
    pthread_mutex_unlock(&lock); \
    return result; \
}

FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)

#define FSYNC(function) \
int function(int fd) \
{ \
    REAL(function); \
    int result; \
    if (of(fd) == 0) \
        return real(fd); \
    pthread_mutex_lock(&lock); \
    result = real(fd); \
    if (result == 0 && !getenv("JARVIS_POWERCUT_DEAF")) \
        record(of(fd) < 0 ? DIRSYNC : SYNC, handle(fd), 0, NULL, 0); \
    pthread_mutex_unlock(&lock); \
    return result; \
}

FSYNC(fsync)
FSYNC(fdatasync)

/* A call that changes one name, recorded if it succeeds. */
#define ONE(kind, at, path, call) \
    char buffer[PATH_MAX]; \
    const char *name = ours(at, path, buffer); \
    int result; \
    if (!name || !*name) \
        return (int)(call); \
    pthread_mutex_lock(&lock); \
    result = (int)(call); \
    if (result == 0) \
        record(kind, 0, 0, name, strlen(name)); \
    pthread_mutex_unlock(&lock); \
    return result

int unlink(const char *path)
{
    ONE(UNLINK, AT_FDCWD, path, syscall(SYS_unlinkat, AT_FDCWD, path, 0));
}

int unlinkat(int at, const char *path, int flags)
{
    ONE(flags & AT_REMOVEDIR ? RMDIR : UNLINK, at, path, syscall(SYS_unlinkat, at, path, flags));
}

int rmdir(const char *path)
{
    ONE(RMDIR, AT_FDCWD, path, syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR));
}

int mkdir(const char *path, mode_t mode)
{
    ONE(MKDIR, AT_FDCWD, path, syscall(SYS_mkdirat, AT_FDCWD, path, mode));
}

int mkdirat(int at, const char *path, mode_t mode)
{
    ONE(MKDIR, at, path, syscall(SYS_mkdirat, at, path, mode));
}

/* A call that changes two names. */
#define TWO(kind, from_at, from, to_at, to, call) \
    char from_buffer[PATH_MAX], to_buffer[PATH_MAX], both[2 * PATH_MAX + 2]; \
    const char *old = ours(from_at, from, from_buffer), *new = ours(to_at, to, to_buffer); \
    int result, n; \
    if (!old && !new) \
        return (int)(call); \
    n = snprintf(both, sizeof both, "%s%c%s", old ? old : "", 0, new ? new : ""); \
    pthread_mutex_lock(&lock); \
    result = (int)(call); \
    if (result == 0) \
        record(kind, 0, 0, both, (size_t)n); \
    pthread_mutex_unlock(&lock); \
    return result

int rename(const char *from, const char *to)
{
    TWO(RENAME, AT_FDCWD, from, AT_FDCWD, to, syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}

int renameat(int from_at, const char *from, int to_at, const char *to)
{
    TWO(RENAME, from_at, from, to_at, to, syscall(SYS_renameat2, from_at, from, to_at, to, 0));
}

int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned int flags)
{
    /* An exchange would need a record of its own. */
    if (flags & RENAME_EXCHANGE)
        abort();
    TWO(RENAME, from_at, from, to_at, to, syscall(SYS_renameat2, from_at, from, to_at, to, flags));
}

int link(const char *from, const char *to)
{
    TWO(LINK, AT_FDCWD, from, AT_FDCWD, to, syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0));
}

int linkat(int from_at, const char *from, int to_at, const char *to, int flags)
{
    TWO(LINK, from_at, from, to_at, to, syscall(SYS_linkat, from_at, from, to_at, to, flags));
}
