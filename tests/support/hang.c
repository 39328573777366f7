/*
 * Calls that do not return while a file exists: a recogniser and a disk that hang.
 *
 *   $JARVIS_TEST_HANG/recogniser   vosk_recognizer_final_result waits
 *   $JARVIS_TEST_HANG/disk         fsync and fdatasync wait
 *
 * Build: cc -O2 -shared -fPIC -o hang.so hang.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void wait_while(const char *name)
{
    const char *dir = getenv("JARVIS_TEST_HANG");
    char path[512];
    if (!dir)
        return;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    while (access(path, F_OK) == 0)
        usleep(20000);
}

const char *vosk_recognizer_final_result(void *recognizer)
{
    static const char *(*real)(void *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "vosk_recognizer_final_result");
    wait_while("recogniser");
    return real(recognizer);
}

int fsync(int fd)
{
    static int (*real)(int);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "fsync");
    wait_while("disk");
    return real(fd);
}

int fdatasync(int fd)
{
    static int (*real)(int);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "fdatasync");
    wait_while("disk");
    return real(fd);
}
