/* Licensed under the Apache License, Version 2.0 (the "License"); you may
 * not use this file except in compliance with the License. You may obtain
 * a copy of the License at
 *
 *      http://www.apache.org/licenses/LICENSE-2.0
 *
 * Unless required by applicable law or agreed to in writing, software
 * distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
 * WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
 * License for the specific language governing permissions and limitations
 * under the License.
 */

/*
 * keeper [INTERVAL_US OTHERS_US]
 *
 * The guest's first process once init.sh is done: runs a writer on each disk,
 * whenever it appears, and powers the guest off when the ACPI power button is
 * pressed. It touches no disk itself, so none can hang it. Without intervals
 * there are no writers.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EXIT_NOT_OURS 10 /* of writer.c */

enum {
    MAX_DISKS = 64,
    MAX_INPUTS = 8,
    STOP_MS = 800, /* for the writers to end on the power button; one whose
                      disk hangs is left behind */
    RESCAN_MS = 1000,
};

struct disk {
    char name[16];
    unsigned long diskseq; /* the kernel's, never the same for two disks */
    pid_t writer;          /* 0: none */
    bool refused;          /* by its writer: not ours to write on */
    bool present;
};

static struct disk disks[MAX_DISKS];
static struct pollfd polled[1 + MAX_INPUTS]; /* [0]: the kernel's uevents */
static char *interval_us, *others_us;

static unsigned long read_diskseq(const char *name) {
    char path[64];
    unsigned long diskseq = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/sys/block/%.15s/diskseq", name);
    file = fopen(path, "re");
    if (!file)
        return 0;
    if (fscanf(file, "%lu", &diskseq) != 1)
        diskseq = 0;
    fclose(file);
    return diskseq;
}

static void start_writer(struct disk *disk) {
    disk->writer = fork();
    if (disk->writer == 0) {
        execl("/bin/writer", "writer", disk->name, interval_us, others_us,
              NULL);
        _exit(127);
    }
    if (disk->writer < 0)
        disk->writer = 0; /* the next scan tries again */
}

static struct disk *find_disk(unsigned long diskseq) {
    for (int i = 0; i < MAX_DISKS; i++)
        if (disks[i].diskseq == diskseq)
            return &disks[i];
    return NULL;
}

static void meet_disk(const char *name) {
    unsigned long diskseq = read_diskseq(name);
    struct disk *disk = diskseq ? find_disk(diskseq) : NULL;

    if (diskseq && !disk) {
        disk = find_disk(0); /* a free place */
        if (!disk)
            return;
        disk->diskseq = diskseq;
        snprintf(disk->name, sizeof(disk->name), "%.15s", name);
    }
    if (disk)
        disk->present = true;
}

/* Looks at the disks there are: new ones get a writer, lost ones go. */
static void scan_disks(void) {
    DIR *folder = opendir("/sys/block");
    struct dirent *entry;

    for (int i = 0; i < MAX_DISKS; i++)
        disks[i].present = false;
    while (folder && (entry = readdir(folder)))
        if (!strncmp(entry->d_name, "vd", 2) ||
            !strncmp(entry->d_name, "sd", 2))
            meet_disk(entry->d_name);
    if (folder)
        closedir(folder);
    for (int i = 0; i < MAX_DISKS; i++) {
        struct disk *disk = &disks[i];
        if (disk->present && !disk->writer && !disk->refused)
            start_writer(disk);
        else if (disk->diskseq && !disk->present && !disk->writer) {
            printf("%s: unplugged\n", disk->name);
            memset(disk, 0, sizeof(*disk));
        }
    }
}

/* Notes the writers that have ended; true if some still run. */
static bool reap(void) {
    bool running = false;
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (int i = 0; i < MAX_DISKS; i++)
            if (disks[i].writer == pid) {
                disks[i].writer = 0;
                disks[i].refused = WIFEXITED(status) &&
                                   WEXITSTATUS(status) == EXIT_NOT_OURS;
            }
    for (int i = 0; i < MAX_DISKS; i++)
        running = running || disks[i].writer;
    return running;
}

static void power_off(void) {
    struct timespec tick = {0, 5000000};

    puts("power button: stopping");
    for (int i = 0; i < MAX_DISKS; i++)
        if (disks[i].writer)
            kill(disks[i].writer, SIGTERM);
    for (int ms = 0; reap() && ms < STOP_MS; ms += 5)
        nanosleep(&tick, NULL);
    puts("power off");
    reboot(RB_POWER_OFF); /* no sync(): a hung disk would hang it */
}

static void open_uevents(void) {
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};

    polled[0].events = POLLIN;
    polled[0].fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC |
                          SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
    bind(polled[0].fd, (struct sockaddr *)&address, sizeof(address));
}

/* One of the input devices is the power button; all are listened to. */
static void open_inputs(void) {
    char path[32];

    for (int i = 0; i < MAX_INPUTS; i++) {
        if (polled[1 + i].fd >= 0)
            continue;
        snprintf(path, sizeof(path), "/dev/input/event%d", i);
        polled[1 + i].fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        polled[1 + i].events = POLLIN;
    }
}

static bool power_pressed(int fd) {
    struct input_event event;
    bool pressed = false;

    while (read(fd, &event, sizeof(event)) == sizeof(event))
        pressed = pressed || (event.type == EV_KEY && event.value == 1 &&
                              event.code == KEY_POWER);
    return pressed;
}

static void drain_uevents(void) {
    char event[4096];

    while (read(polled[0].fd, event, sizeof(event)) > 0)
        ;
}

/* Only there to end a poll() when a writer ends. */
static void on_sigchld(int number) { (void)number; }

int main(int argc, char **argv) {
    struct sigaction action = {.sa_handler = on_sigchld};

    if (argc != 3 && argc != 1) {
        fputs("usage: keeper [INTERVAL_US OTHERS_US]\n", stderr);
        return EXIT_FAILURE;
    }
    interval_us = argc == 3 ? argv[1] : NULL;
    others_us = argc == 3 ? argv[2] : NULL;
    setlinebuf(stdout);
    sigaction(SIGCHLD, &action, NULL);
    for (int i = 0; i < MAX_INPUTS; i++)
        polled[1 + i].fd = -1;
    open_uevents();
    for (;;) {
        drain_uevents();
        open_inputs();
        reap();
        if (interval_us)
            scan_disks();
        poll(polled, 1 + MAX_INPUTS, RESCAN_MS);
        for (int i = 0; i < MAX_INPUTS; i++)
            if (polled[1 + i].revents && power_pressed(polled[1 + i].fd))
                power_off();
    }
}
