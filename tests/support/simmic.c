/*
 * A microphone and a loudspeaker that exist only in files, for tests: an ALSA external-I/O PCM plug-in.
 *
 * Sound moves at real-time pace. The capture clock is one for the whole process and runs on while the device is
 * closed, unplugged or overrun, as a room does; so what a reader misses is missing from its sound by exactly the time
 * that it missed.
 *
 *   DIR/in.raw    what the microphone hears: interleaved frames in the device's format, frame 0 at the first start of
 *                 any capture in this process; silence after its end
 *   DIR/noise     while it exists: in place of silence the microphone hears its own noise, the last bit of 16 at random,
 *                 as every real one does (S16_LE)
 *   DIR/say.raw   a file moved to this name is heard from now on, once (it is removed when it begins)
 *   DIR/out.raw   what the loudspeaker played is appended here
 *   DIR/unplug    while it exists: ENODEV on everything, open included
 *   DIR/busy      while it exists: EBUSY on open
 *   DIR/freeze    while it exists: the clock stands still and no data comes, without any error
 *   DIR/suspend   while it exists: the stream is suspended (ESTRPIPE); it cannot be resumed, only prepared again
 *   DIR/xrun      the running capture reports an overrun and the file is removed
 *   DIR/hang      while it exists: a call that hands sound to the loudspeaker does not return
 *   DIR/echo      while it exists: the microphone hears what the loudspeaker plays, half as loud and as many
 *                 milliseconds later as the file says (S16_LE, mono, one rate for both)
 *
 * Configuration (see asound.conf.in): pcm.NAME { type simmic  dir "DIR"  format S16_LE  channels 0  rate 0 }
 * 0 means any: 1 to 2 channels, 8 to 48 kHz.
 *
 * Build: cc -O2 -shared -fPIC -o libasound_module_pcm_simmic.so simmic.c -lasound
 */
#ifndef PIC
#define PIC 1 /* asks the ALSA headers for the symbol of a loadable module */
#endif
#define _GNU_SOURCE
#include <alsa/asoundlib.h>
#include <alsa/pcm_external.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

struct sim {
    snd_pcm_ioplug_t io;
    char dir[512];
    int timer;
    int file;     /* in.raw or out.raw, -1 if it is not there */
    int saying;   /* say.raw while it is heard, else -1 */
    int running;
    uint64_t start; /* hardware frame at which this stream was started */
    uint64_t moved; /* frames the application has read or written since then */
    int16_t *early; /* what was written before the start, for the echo */
    uint64_t boundary;
    snd_pcm_sframes_t last;
};

/* The room's clock, shared by all captures of the process. */
static int64_t room_epoch_ns, room_frozen_since_ns, room_frozen_ns;

/* The echo of the loudspeaker, by room frame. 21 s at 48 kHz. */
#define ECHO_FRAMES (1 << 20)
#define EARLY_FRAMES (1 << 16)
static int16_t echo[ECHO_FRAMES];

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void path_of(const struct sim *sim, const char *name, char *path, size_t size)
{
    snprintf(path, size, "%s/%s", sim->dir, name);
}

static int fault(const struct sim *sim, const char *name)
{
    char path[600];
    path_of(sim, name, path, sizeof path);
    return access(path, F_OK) == 0;
}

static int take_fault(const struct sim *sim, const char *name)
{
    char path[600];
    path_of(sim, name, path, sizeof path);
    return unlink(path) == 0;
}

/* Frames that the hardware has heard since the room's clock began. */
static uint64_t room_frame(const struct sim *sim)
{
    int64_t now = now_ns();
    if (room_epoch_ns == 0)
        room_epoch_ns = now;
    if (fault(sim, "freeze")) {
        if (room_frozen_since_ns == 0)
            room_frozen_since_ns = now;
        now = room_frozen_since_ns;
    } else if (room_frozen_since_ns != 0) {
        room_frozen_ns += now - room_frozen_since_ns;
        room_frozen_since_ns = 0;
    }
    double seconds = (double)(now - room_epoch_ns - room_frozen_ns) / 1e9;
    return seconds > 0 ? (uint64_t)(seconds * sim->io.rate) : 0;
}

static uint64_t heard(const struct sim *sim)
{
    uint64_t frame = room_frame(sim);
    return sim->running && frame > sim->start ? frame - sim->start : 0;
}

static void set_timer(const struct sim *sim, int on)
{
    struct itimerspec spec = {0};
    if (on) {
        int64_t ns = (int64_t)(1e9 * sim->io.period_size / sim->io.rate);
        spec.it_interval.tv_sec = ns / 1000000000;
        spec.it_interval.tv_nsec = ns % 1000000000;
        spec.it_value = spec.it_interval;
    }
    timerfd_settime(sim->timer, 0, &spec, NULL);
}

/* Milliseconds that the echo takes, -1 where there is none. */
static long echo_ms(const struct sim *sim)
{
    char path[600], text[16] = {0};
    path_of(sim, "echo", path, sizeof path);
    int fd = sim->io.format == SND_PCM_FORMAT_S16_LE && sim->io.channels == 1 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return -1;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    return got > 0 ? atol(text) : 0;
}

/* Takes down what the loudspeaker says from room frame `at` on. */
static void echo_comes(const struct sim *sim, uint64_t at, const int16_t *sound, snd_pcm_uframes_t frames)
{
    long after_ms = echo_ms(sim);
    if (after_ms < 0)
        return;
    at += (uint64_t)after_ms * sim->io.rate / 1000;
    for (snd_pcm_uframes_t i = 0; i < frames; i++)
        __atomic_store_n(&echo[(at + i) % ECHO_FRAMES], (int16_t)(sound[i] / 2), __ATOMIC_RELAXED);
}

/* Adds it to what the microphone hears from room frame `at` on. */
static void echo_is_heard(uint64_t at, int16_t *sound, snd_pcm_uframes_t frames)
{
    for (snd_pcm_uframes_t i = 0; i < frames; i++) {
        int sum = sound[i] + __atomic_exchange_n(&echo[(at + i) % ECHO_FRAMES], 0, __ATOMIC_RELAXED);
        sound[i] = (int16_t)(sum > 32767 ? 32767 : sum < -32768 ? -32768 : sum);
    }
}

/* The noise of the microphone itself. */
static void own_noise(int16_t *sound, size_t samples)
{
    static uint32_t state = 1;
    for (size_t i = 0; i < samples; i++) {
        state = state * 1664525 + 1013904223;
        sound[i] = (int16_t)(state >> 31);
    }
}

static int sim_start(snd_pcm_ioplug_t *io)
{
    struct sim *sim = io->private_data;
    sim->start = room_frame(sim);
    sim->running = 1;
    if (io->stream == SND_PCM_STREAM_PLAYBACK)
        echo_comes(sim, sim->start, sim->early, sim->moved < EARLY_FRAMES ? sim->moved : EARLY_FRAMES);
    set_timer(sim, 1);
    return 0;
}

static int sim_stop(snd_pcm_ioplug_t *io)
{
    struct sim *sim = io->private_data;
    sim->running = 0;
    set_timer(sim, 0);
    return 0;
}

static int sim_prepare(snd_pcm_ioplug_t *io)
{
    struct sim *sim = io->private_data;
    if (fault(sim, "unplug"))
        return -ENODEV;
    if (fault(sim, "suspend"))
        return -EAGAIN;
    sim->running = 0;
    sim->moved = 0;
    sim->last = 0;
    return 0;
}

static int sim_resume(snd_pcm_ioplug_t *io)
{
    struct sim *sim = io->private_data;
    return fault(sim, "suspend") ? -EAGAIN : -ENOSYS;
}

static snd_pcm_sframes_t sim_pointer(snd_pcm_ioplug_t *io)
{
    struct sim *sim = io->private_data;
    if (fault(sim, "unplug")) {
        snd_pcm_ioplug_set_state(io, SND_PCM_STATE_DISCONNECTED);
        return sim->last;
    }
    if (fault(sim, "suspend")) {
        snd_pcm_ioplug_set_state(io, SND_PCM_STATE_SUSPENDED);
        return sim->last;
    }
    if (!sim->running)
        return 0;
    uint64_t at = heard(sim);
    if (io->stream == SND_PCM_STREAM_CAPTURE) {
        if (at > sim->moved + io->buffer_size || take_fault(sim, "xrun"))
            return -EPIPE;
    } else if (at > sim->moved) {
        if (io->state != SND_PCM_STATE_DRAINING)
            return -EPIPE;
        at = sim->moved;
    }
    sim->last = (snd_pcm_sframes_t)(at % sim->boundary);
    return sim->last;
}

/* Bytes read from `fd`, 0 where there is none. */
static size_t read_some(int fd, char *to, size_t size, int64_t offset)
{
    if (fd < 0)
        return 0;
    ssize_t got = offset < 0 ? read(fd, to, size) : pread(fd, to, size, offset);
    return got < 0 ? 0 : (size_t)got;
}

static snd_pcm_sframes_t sim_transfer(snd_pcm_ioplug_t *io, const snd_pcm_channel_area_t *areas,
                                      snd_pcm_uframes_t offset, snd_pcm_uframes_t frames)
{
    struct sim *sim = io->private_data;
    size_t width = areas->step / 8;
    size_t size = frames * width;
    char *sound = (char *)areas->addr + areas->first / 8 + offset * width;
    if (io->stream == SND_PCM_STREAM_CAPTURE) {
        if (sim->saying < 0) {
            char path[600];
            path_of(sim, "say.raw", path, sizeof path);
            sim->saying = open(path, O_RDONLY | O_CLOEXEC);
            if (sim->saying >= 0)
                unlink(path);
        }
        size_t got = read_some(sim->saying, sound, size, -1);
        if (sim->saying >= 0 && got < size) {
            close(sim->saying);
            sim->saying = -1;
        }
        if (got == 0)
            got = read_some(sim->file, sound, size, (int64_t)((sim->start + sim->moved) * width));
        memset(sound + got, 0, size - got);
        if (got < size && io->format == SND_PCM_FORMAT_S16_LE && fault(sim, "noise"))
            own_noise((int16_t *)(sound + got), (size - got) / 2);
        if (echo_ms(sim) >= 0)
            echo_is_heard(sim->start + sim->moved, (int16_t *)sound, frames);
    } else {
        while (fault(sim, "hang"))
            usleep(10000);
        if (sim->file >= 0 && write(sim->file, sound, size) != (ssize_t)size)
            return -EIO;
        if (sim->running)
            echo_comes(sim, sim->start + sim->moved, (const int16_t *)sound, frames);
        else if (width == sizeof *sim->early && sim->moved + frames <= EARLY_FRAMES)
            memcpy(sim->early + sim->moved, sound, size);
    }
    sim->moved += frames;
    return (snd_pcm_sframes_t)frames;
}

static int sim_sw_params(snd_pcm_ioplug_t *io, snd_pcm_sw_params_t *params)
{
    struct sim *sim = io->private_data;
    snd_pcm_uframes_t boundary = 1;
    snd_pcm_sw_params_get_boundary(params, &boundary);
    sim->boundary = boundary;
    return 0;
}

static int sim_poll_revents(snd_pcm_ioplug_t *io, struct pollfd *fds, unsigned count, unsigned short *revents)
{
    struct sim *sim = io->private_data;
    unsigned short ready = io->stream == SND_PCM_STREAM_CAPTURE ? POLLIN : POLLOUT;
    uint64_t ticks;
    (void)fds;
    (void)count;
    *revents = 0;
    snd_pcm_sframes_t avail = snd_pcm_avail_update(io->pcm);
    if (io->state == SND_PCM_STATE_DISCONNECTED) {
        *revents = POLLERR | POLLHUP;
        return -ENODEV;
    }
    if (avail < 0 || io->state == SND_PCM_STATE_SUSPENDED) {
        *revents = POLLERR | ready;
        return 0;
    }
    /* The timer stays readable while more than a period is left, so that a late reader catches up. */
    if ((snd_pcm_uframes_t)avail < 2 * io->period_size && read(sim->timer, &ticks, sizeof ticks) < 0)
        ticks = 0;
    if ((snd_pcm_uframes_t)avail >= io->period_size)
        *revents = ready;
    return 0;
}

static int sim_drain(snd_pcm_ioplug_t *io)
{
    struct sim *sim = io->private_data;
    if (!sim->running)
        sim_start(io);
    while (sim->running && heard(sim) < sim->moved && !fault(sim, "unplug"))
        usleep(2000);
    return 0;
}

static int sim_close(snd_pcm_ioplug_t *io)
{
    struct sim *sim = io->private_data;
    if (sim->timer >= 0)
        close(sim->timer);
    if (sim->file >= 0)
        close(sim->file);
    if (sim->saying >= 0)
        close(sim->saying);
    free(sim->early);
    free(sim);
    return 0;
}

static const snd_pcm_ioplug_callback_t callbacks = {
    .start = sim_start,
    .stop = sim_stop,
    .pointer = sim_pointer,
    .transfer = sim_transfer,
    .prepare = sim_prepare,
    .resume = sim_resume,
    .sw_params = sim_sw_params,
    .poll_revents = sim_poll_revents,
    .drain = sim_drain,
    .close = sim_close,
};

static int constrain(struct sim *sim, snd_pcm_format_t format, long channels, long rate)
{
    unsigned access[] = {SND_PCM_ACCESS_RW_INTERLEAVED};
    unsigned formats[] = {(unsigned)format};
    int err = snd_pcm_ioplug_set_param_list(&sim->io, SND_PCM_IOPLUG_HW_ACCESS, 1, access);
    if (err >= 0)
        err = snd_pcm_ioplug_set_param_list(&sim->io, SND_PCM_IOPLUG_HW_FORMAT, 1, formats);
    if (err >= 0)
        err = snd_pcm_ioplug_set_param_minmax(&sim->io, SND_PCM_IOPLUG_HW_CHANNELS, channels ? channels : 1,
                                              channels ? channels : 2);
    if (err >= 0)
        err = snd_pcm_ioplug_set_param_minmax(&sim->io, SND_PCM_IOPLUG_HW_RATE, rate ? rate : 8000,
                                              rate ? rate : 48000);
    if (err >= 0)
        err = snd_pcm_ioplug_set_param_minmax(&sim->io, SND_PCM_IOPLUG_HW_PERIODS, 2, 64);
    if (err >= 0)
        err = snd_pcm_ioplug_set_param_minmax(&sim->io, SND_PCM_IOPLUG_HW_PERIOD_BYTES, 64, 1 << 17);
    if (err >= 0)
        err = snd_pcm_ioplug_set_param_minmax(&sim->io, SND_PCM_IOPLUG_HW_BUFFER_BYTES, 256, 1 << 21);
    return err;
}

SND_PCM_PLUGIN_DEFINE_FUNC(simmic)
{
    const char *dir = NULL, *format_name = "S16_LE";
    long channels = 0, rate = 0;
    snd_config_iterator_t at, next;
    (void)root;
    snd_config_for_each(at, next, conf)
    {
        snd_config_t *entry = snd_config_iterator_entry(at);
        const char *id;
        if (snd_config_get_id(entry, &id) < 0 || !strcmp(id, "type") || !strcmp(id, "comment") || !strcmp(id, "hint"))
            continue;
        if (!strcmp(id, "dir"))
            snd_config_get_string(entry, &dir);
        else if (!strcmp(id, "format"))
            snd_config_get_string(entry, &format_name);
        else if (!strcmp(id, "channels"))
            snd_config_get_integer(entry, &channels);
        else if (!strcmp(id, "rate"))
            snd_config_get_integer(entry, &rate);
        else {
            SNDERR("simmic: unknown field %s", id);
            return -EINVAL;
        }
    }
    snd_pcm_format_t format = snd_pcm_format_value(format_name);
    if (!dir || format == SND_PCM_FORMAT_UNKNOWN)
        return -EINVAL;

    struct sim *sim = calloc(1, sizeof *sim);
    if (!sim)
        return -ENOMEM;
    sim->early = calloc(EARLY_FRAMES, sizeof *sim->early);
    if (!sim->early) {
        free(sim);
        return -ENOMEM;
    }
    snprintf(sim->dir, sizeof sim->dir, "%s", dir);
    if (fault(sim, "unplug") || fault(sim, "busy")) {
        int err = fault(sim, "unplug") ? -ENODEV : -EBUSY;
        free(sim->early);
        free(sim);
        return err;
    }
    char path[600];
    int capture = stream == SND_PCM_STREAM_CAPTURE;
    path_of(sim, capture ? "in.raw" : "out.raw", path, sizeof path);
    sim->file = capture ? open(path, O_RDONLY | O_CLOEXEC)
                        : open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    sim->saying = -1;
    sim->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    sim->boundary = 1;
    sim->io.version = SND_PCM_IOPLUG_VERSION;
    sim->io.name = "simmic";
    sim->io.callback = &callbacks;
    sim->io.private_data = sim;
    sim->io.poll_fd = sim->timer;
    sim->io.poll_events = POLLIN;
    sim->io.flags = SND_PCM_IOPLUG_FLAG_BOUNDARY_WA | SND_PCM_IOPLUG_FLAG_MONOTONIC;
    int err = snd_pcm_ioplug_create(&sim->io, name, stream, mode);
    if (err < 0) {
        sim_close(&sim->io);
        return err;
    }
    err = constrain(sim, format, channels, rate);
    if (err < 0) {
        snd_pcm_ioplug_delete(&sim->io);
        return err;
    }
    *pcmp = sim->io.pcm;
    return 0;
}
SND_PCM_PLUGIN_SYMBOL(simmic);
