/*
 * Tries from inside a service what its sandbox must deny, and what it must allow: one line a try, "ok" or "BAD", with the
 * name of the try and the result. Exit code 1 if any is BAD.
 *
 *   sandbox daemon|backup|report
 *
 * Started by scripts/try-service.sh in place of jarvisd, by a copy of the unit. That script makes the files it looks
 * for: /home/anna/secret, /tmp/of-others, /dev/probe (a device that is no sound device), /opt/suid (`cp` with the
 * set-user-ID bit of root), /opt/open (a folder that everybody may write).
 *
 * Much of it is denied to every ordinary user. So the script runs it outside of the sandbox as well, and counts the tries
 * that only the sandbox denies.
 *
 * Build: cc -O2 -Wall -Wextra -Werror -o sandbox sandbox.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int failed;

/* result: 0 or more = it worked; -1 = errno says why not. */
static void expect(int allowed, const char *name, long result)
{
    int why = errno;
    int ok = allowed ? result >= 0 : result < 0;
    failed |= !ok;
    printf("%s %s: %s\n", ok ? "ok" : "BAD", name, result >= 0 ? "allowed" : strerror(why));
}

#define DENIED(name, call) (errno = 0, expect(0, name, (long)(call)))
#define ALLOWED(name, call) (errno = 0, expect(1, name, (long)(call)))

static int can_write(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return -1;
    int written = write(fd, "x", 1) == 1 ? 0 : -1;
    close(fd);
    unlink(path);
    return written;
}

static int can_open(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0)
        close(fd);
    return fd < 0 ? -1 : 0;
}

static int can_read(const char *path)
{
    char byte;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -1;
    int got = read(fd, &byte, 1) >= 0 ? 0 : -1;
    close(fd);
    return got;
}

/* Runs a program; 0 if it could be started. */
static int can_run(const char *path)
{
    int from[2], why = 0;
    if (pipe2(from, O_CLOEXEC))
        return -1;
    pid_t child = fork();
    if (child == 0) {
        execl(path, path, (char *)NULL);
        why = errno;
        if (write(from[1], &why, sizeof why) < 0)
            _exit(2);
        _exit(1);
    }
    close(from[1]);
    int started = read(from[0], &why, sizeof why) <= 0;
    close(from[0]);
    waitpid(child, NULL, 0);
    errno = why;
    return started ? 0 : -1;
}

/* Copies a program into a folder and runs it there. */
static int can_run_copy(const char *folder)
{
    char command[320], path[128];
    snprintf(path, sizeof path, "%s/of-its-own", folder);
    snprintf(command, sizeof command, "/usr/bin/cp /usr/bin/true %s && /usr/bin/chmod 700 %s", path, path);
    if (system(command) != 0) {
        printf("BAD copy into %s: the try itself failed\n", folder);
        failed = 1;
        return -1;
    }
    int ran = can_run(path), why = errno;
    unlink(path);
    errno = why;
    return ran;
}

/* Whether a set-user-ID program of root, a copy of `cp`, reads what only root may. */
static int becomes_root(const char *path)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO);
        execl(path, path, "/etc/shadow", "/dev/null", (char *)NULL);
        _exit(2);
    }
    waitpid(child, &status, 0);
    errno = EPERM;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

/* Whether a child of it may be debugged. */
static int is_traced(void)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0)
        _exit(syscall(SYS_ptrace, 0, 0, 0, 0) < 0 ? errno : 0);
    waitpid(child, &status, 0);
    errno = WEXITSTATUS(status);
    return errno ? -1 : 0;
}

static int has_socket(int family, int type)
{
    int fd = socket(family, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    close(fd);
    return 0;
}

/* -1 if no set of capabilities has any. */
static int has_capabilities(void)
{
    char line[256];
    int any = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, "Cap", 3) && strtoull(strchr(line, ':') + 1, NULL, 16) != 0)
            any = 0;
    if (status)
        fclose(status);
    errno = EPERM;
    return status ? any : 0;
}

static int writes_and_runs(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return page == MAP_FAILED ? -1 : 0;
}

static int sets_group_bit(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
    int set = fd < 0 ? -1 : fchmod(fd, S_ISGID | 0755);
    int why = errno;
    if (fd >= 0)
        close(fd);
    unlink(path);
    errno = why;
    return set;
}

int main(int count, char **values)
{
    const char *unit = count > 1 ? values[1] : "";
    int daemon = !strcmp(unit, "daemon"), report = !strcmp(unit, "report");
    struct timex timex = {0};
    struct timespec now = {0};
    struct sched_param priority = {.sched_priority = 5};

    ALLOWED("write: its own memory", can_write("/var/lib/jarvis/probe"));
    if (!report)
        ALLOWED("write: the backups", can_write("/var/backups/jarvis/probe"));
    if (daemon)
        ALLOWED("write: its runtime folder", can_write("/run/jarvis/probe"));
    ALLOWED("read: its configuration", can_read("/etc/jarvis/jarvis.toml"));
    DENIED("write: its configuration", can_write("/etc/jarvis/probe"));
    DENIED("write: /etc", can_write("/etc/probe"));
    DENIED("write: /usr", can_write("/usr/bin/probe"));
    DENIED("write: /var/log", can_write("/var/log/probe"));
    DENIED("write: /opt, which everybody may write", can_write("/opt/open/probe"));
    DENIED("read: a home folder", can_read("/home/anna/secret"));
    DENIED("read: temporary files of others", can_read("/tmp/of-others"));
    DENIED("read: the kernel's log", can_read("/proc/kmsg"));
    DENIED("call: the kernel's log", syscall(SYS_syslog, 3, (char[64]){0}, 64));
    DENIED("write: a setting of the kernel", can_write("/proc/sys/kernel/panic"));
    DENIED("make: a control group", mkdir("/sys/fs/cgroup/probe", 0700));
    DENIED("open: a device that is no sound device", can_open("/dev/probe"));
    DENIED("see: processes of others", access("/proc/1/status", F_OK));

    DENIED("have: capabilities", has_capabilities());
    DENIED("become: root, by a program that may", becomes_root("/opt/suid"));
    DENIED("become: another user", syscall(SYS_setuid, 65534));
    DENIED("make: a program that changes the group", sets_group_bit("/var/lib/jarvis/probe"));
    DENIED("make: a device", mknod("/var/lib/jarvis/probe", S_IFCHR | 0600, 0x10b));

    ALLOWED("run: a program of the system", can_run("/usr/bin/true"));
    DENIED("run: a program in its memory folder", can_run_copy("/var/lib/jarvis"));
    DENIED("run: a program in /tmp", can_run_copy("/tmp"));
    DENIED("run: a program in /dev/shm", can_run_copy("/dev/shm"));
    DENIED("map: memory to write and run", writes_and_runs());

    ALLOWED("socket: Unix", has_socket(AF_UNIX, SOCK_STREAM));
    expect(!report, "socket: IPv4", has_socket(AF_INET, SOCK_STREAM));
    expect(!report, "socket: IPv6", has_socket(AF_INET6, SOCK_STREAM));
    expect(!report, "socket: netlink", has_socket(AF_NETLINK, SOCK_RAW));
    DENIED("socket: raw packets", has_socket(AF_PACKET, SOCK_RAW));
    DENIED("socket: the kernel's ciphers", has_socket(AF_ALG, SOCK_SEQPACKET));
    DENIED("socket: Bluetooth", has_socket(AF_BLUETOOTH, SOCK_RAW));
    DENIED("socket: virtual machines", has_socket(AF_VSOCK, SOCK_STREAM));

    DENIED("call: ptrace", is_traced());
    DENIED("call: read the memory of a process", syscall(SYS_process_vm_readv, getpid(), NULL, 0, NULL, 0, 0));
    DENIED("call: mount", syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, NULL));
    DENIED("call: a namespace of its own", syscall(SYS_unshare, CLONE_NEWUSER));
    DENIED("call: chroot", chroot("/tmp"));
    DENIED("call: load a module", syscall(SYS_finit_module, -1, "", 0));
    DENIED("call: bpf", syscall(SYS_bpf, 0, NULL, 0));
    DENIED("call: performance counters", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
    DENIED("call: the kernel's keys", syscall(SYS_keyctl, 0, -3, 0, 0, 0));
    DENIED("call: io_uring", syscall(SYS_io_uring_setup, 1, NULL));
    DENIED("call: userfaultfd", syscall(SYS_userfaultfd, 0));
    DENIED("call: another kernel", syscall(SYS_kexec_load, 0, 0, NULL, 0));
    DENIED("call: restart the machine", syscall(SYS_reboot, 0, 0, 0, NULL));
    DENIED("call: swap", syscall(SYS_swapon, "/none", 0));
    DENIED("call: the name of the machine", sethostname("probe", 5));
    DENIED("call: set the clock", clock_settime(CLOCK_REALTIME, &now));
    DENIED("call: ask for the state of the clock", adjtimex(&timex));
    DENIED("call: another personality", syscall(SYS_personality, 0x0008));
    DENIED("call: the priority of others", setpriority(PRIO_USER, 0, -5));
    if (!daemon)
        DENIED("call: real-time priority", sched_setscheduler(0, SCHED_FIFO, &priority));
    return failed;
}
