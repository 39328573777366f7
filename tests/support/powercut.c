/*
 * A recorder below SQLite, for power-cut tests: preloaded into a process, it writes down, in order, everything that the
 * process does to the files of one folder (JARVIS_POWERCUT_DIR) and every acknowledgement that it prints.
 *
 * JARVIS_POWERCUT_LOG receives records: five little-endian 64-bit numbers (kind, file, offset, length of the data, mark)
 * and the data. One lock covers each call together with its record, so the order of the records is the order of the
 * calls. What may be left of the files after the power went at some point of the log is worked out by powercut.rs.
 *
 *   1 CREATE   data = name; `file` is a new, empty file
 *   2 WRITE    data at offset
 *   3 TRUNCATE offset = new length
 *   4 SYNC     everything written to `file` so far is durable (recorded after fsync returned)
 *   5 DIRSYNC  every name so far is durable
 *   6 UNLINK   data = name
 *   7 RENAME   data = old name, NUL, new name
 *   8 SAID     data = what was written to standard output (recorded before it is written)
 *
 * `-shm` files are left out: they are memory, and nobody expects them after a power cut.
 *
 * Build: cc -O2 -shared -fPIC -o powercut.so powercut.c -ldl -lpthread
 */
#define _GNU_SOURCE
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
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE = 1, WRITE, TRUNCATE, SYNC, DIRSYNC, UNLINK, RENAME, SAID };
enum { MARK = 0x4a525643, FDS = 4096 };

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static uint64_t next_file = 1;
/* What each descriptor is: 0 nothing of ours, -1 the folder, else the number of a file. */
static int64_t of_fd[FDS];
/* Numbers of the files that have a name now. */
static struct { char name[128]; uint64_t file; } named[256];

static void record(uint64_t kind, uint64_t file, uint64_t offset, const void *data, size_t length)
{
    uint64_t head[5] = { kind, file, offset, length, MARK };
    struct iovec v[2] = { { head, sizeof head }, { (void *)data, length } };
    size_t left = sizeof head + length;

    if (log_fd < 0) {
        const char *path = getenv("JARVIS_POWERCUT_LOG");
        static __typeof__(open) *real_open;
        if (!path)
            return;
        real_open = (__typeof__(open) *)dlsym(RTLD_NEXT, "open");
        log_fd = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (log_fd < 0)
            abort();
    }
    /* A record by half would be worse than none. */
    if (writev(log_fd, v, 2) != (ssize_t)left)
        abort();
}

/* The name within the folder, or NULL; "" is the folder itself. */
static const char *ours(const char *path)
{
    const char *dir = getenv("JARVIS_POWERCUT_DIR");
    size_t n = dir ? strlen(dir) : 0;
    size_t m = path ? strlen(path) : 0;

    if (!n || !path || strncmp(path, dir, n) != 0)
        return NULL;
    if (m == n)
        return "";
    if (path[n] != '/' || strchr(path + n + 1, '/'))
        return NULL;
    if (m > 4 && strcmp(path + m - 4, "-shm") == 0)
        return NULL;
    return path + n + 1;
}

static uint64_t *slot(const char *name, int make)
{
    size_t i, free_at = sizeof named / sizeof *named;

    for (i = 0; i < sizeof named / sizeof *named; i++) {
        if (named[i].file && strcmp(named[i].name, name) == 0)
            return &named[i].file;
        if (!named[i].file && free_at > i)
            free_at = i;
    }
    if (!make)
        return NULL;
    if (free_at == sizeof named / sizeof *named || strlen(name) >= sizeof named[0].name)
        abort();
    strcpy(named[free_at].name, name);
    return &named[free_at].file;
}

static void opened(int fd, const char *name, int flags)
{
    uint64_t *file;

    if (fd < 0 || fd >= FDS)
        return;
    if (!*name) {
        of_fd[fd] = -1;
        return;
    }
    file = slot(name, 1);
    if (!*file) {
        /* Everything in the folder is made under our eyes. */
        *file = next_file++;
        record(CREATE, *file, 0, name, strlen(name));
    } else if (flags & O_TRUNC) {
        record(TRUNCATE, *file, 0, NULL, 0);
    }
    of_fd[fd] = (int64_t)*file;
}

static int64_t file_of(int fd)
{
    return fd >= 0 && fd < FDS ? of_fd[fd] : 0;
}

#define OPEN(function) \
int function(const char *path, int flags, ...) \
{ \
    REAL(function); \
    mode_t mode = 0; \
    const char *name = ours(path); \
    int fd; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    } \
    if (!name) { \
        fd = real(path, flags, mode); \
        if (fd >= 0 && fd < FDS) \
            of_fd[fd] = 0; \
        return fd; \
    } \
    pthread_mutex_lock(&lock); \
    fd = real(path, flags, mode); \
    opened(fd, name, flags); \
    pthread_mutex_unlock(&lock); \
    return fd; \
}

OPEN(open)
OPEN(open64)

int close(int fd)
{
    REAL(close);
    if (fd >= 0 && fd < FDS)
        of_fd[fd] = 0;
    return real(fd);
}

/* `at` is where `data` goes; a negative one stands for the descriptor's own position. */
static ssize_t done(ssize_t n, int fd, const void *data, off_t at)
{
    if (n > 0)
        record(WRITE, (uint64_t)file_of(fd), (uint64_t)at, data, (size_t)n);
    return n;
}

ssize_t write(int fd, const void *data, size_t n)
{
    REAL(write);
    ssize_t written;

    if (fd == STDOUT_FILENO && getenv("JARVIS_POWERCUT_LOG")) {
        pthread_mutex_lock(&lock);
        record(SAID, 0, 0, data, n);
        pthread_mutex_unlock(&lock);
        return real(fd, data, n);
    }
    if (file_of(fd) <= 0)
        return real(fd, data, n);
    pthread_mutex_lock(&lock);
    {
        off_t at = lseek(fd, 0, SEEK_CUR);
        struct stat s;
        if (fcntl(fd, F_GETFL) & O_APPEND)
            at = fstat(fd, &s) == 0 ? s.st_size : at;
        written = done(real(fd, data, n), fd, data, at);
    }
    pthread_mutex_unlock(&lock);
    return written;
}

#define PWRITE(function, offset) \
ssize_t function(int fd, const void *data, size_t n, offset at) \
{ \
    REAL(function); \
    ssize_t written; \
    if (file_of(fd) <= 0) \
        return real(fd, data, n, at); \
    pthread_mutex_lock(&lock); \
    written = done(real(fd, data, n, at), fd, data, at); \
    pthread_mutex_unlock(&lock); \
    return written; \
}

PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define FTRUNCATE(function, offset) \
int function(int fd, offset length) \
{ \
    REAL(function); \
    int result; \
    if (file_of(fd) <= 0) \
        return real(fd, length); \
    pthread_mutex_lock(&lock); \
    result = real(fd, length); \
    if (result == 0) \
        record(TRUNCATE, (uint64_t)file_of(fd), (uint64_t)length, NULL, 0); \
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
    if (file_of(fd) == 0) \
        return real(fd); \
    pthread_mutex_lock(&lock); \
    result = real(fd); \
    if (result == 0 && !getenv("JARVIS_POWERCUT_DEAF")) \
        record(file_of(fd) < 0 ? DIRSYNC : SYNC, (uint64_t)file_of(fd), 0, NULL, 0); \
    pthread_mutex_unlock(&lock); \
    return result; \
}

FSYNC(fsync)
FSYNC(fdatasync)

int unlink(const char *path)
{
    REAL(unlink);
    const char *name = ours(path);
    int result;

    if (!name || !*name)
        return real(path);
    pthread_mutex_lock(&lock);
    result = real(path);
    if (result == 0) {
        uint64_t *file = slot(name, 0);
        if (file)
            *file = 0;
        record(UNLINK, 0, 0, name, strlen(name));
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int rename(const char *from, const char *to)
{
    REAL(rename);
    const char *old = ours(from), *new = ours(to);
    int result;

    if (!old && !new)
        return real(from, to);
    pthread_mutex_lock(&lock);
    result = real(from, to);
    if (result == 0) {
        char both[300];
        uint64_t *was = old ? slot(old, 0) : NULL;
        uint64_t file = was ? *was : 0;
        int n = snprintf(both, sizeof both, "%s%c%s", old ? old : "", 0, new ? new : "");
        if (n < 0 || n >= (int)sizeof both)
            abort();
        if (was)
            *was = 0;
        if (new && file)
            *slot(new, 1) = file;
        record(RENAME, 0, 0, both, (size_t)n);
    }
    pthread_mutex_unlock(&lock);
    return result;
}
