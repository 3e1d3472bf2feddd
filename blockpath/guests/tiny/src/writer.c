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
 * writer NAME INTERVAL_US OTHERS_US
 *
 * Keeps the ring of record.h on /dev/NAME until SIGTERM. One writer at a time
 * is the fast one and pauses INTERVAL_US between its writes; the rest pause
 * OTHERS_US, so that a guest with many disks is not busy with them alone.
 *
 * Only a blank disk, or one that bears a ring, is written to: never the one
 * that the guest booted from, nor a config drive.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "record.h"

/* Exit codes; keeper.c gives up on a disk only for EXIT_NOT_OURS. */
enum { EXIT_STOPPED = 0, EXIT_NOT_OURS = 10, EXIT_GONE = 11 };

enum {
    CLAIM_BYTES = 128 << 10, /* a blank disk is zeros up to here; enough to
                                meet partitions, LVM, file systems, LUKS */
    READ_BACK_EVERY = 16,    /* records */
    RETRY_US = 250000,       /* after a failed write */
    SLOW_MS = 1000,          /* a write this slow gets a line */
    REPORT_S = 10,
};

static const char *name;
static uint32_t fast_us, slow_us;
static struct record *record, *check;
static uint8_t *chunk;
static volatile sig_atomic_t stopping;

static void on_sigterm(int number) {
    (void)number;
    stopping = 1;
}

static uint64_t now_ns(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static void pause_us(unsigned int us) {
    struct timespec t = {us / 1000000, us % 1000000 * 1000L};

    if (!stopping)
        nanosleep(&t, NULL); /* SIGTERM ends it */
}

static uint32_t crc32(const void *data, size_t bytes) {
    static uint32_t table[256];
    const uint8_t *at = data;
    uint32_t crc = ~0U;

    for (uint32_t i = 0; !table[255] && i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? 0xedb88320U : 0);
        table[i] = value;
    }
    while (bytes--)
        crc = table[(crc ^ *at++) & 0xff] ^ crc >> 8;
    return ~crc;
}

static bool valid(const struct record *r) {
    return !memcmp(r->magic, RECORD_MAGIC, sizeof(r->magic)) &&
           r->checksum == crc32(r, offsetof(struct record, checksum));
}

static off_t offset_of(const struct record *r) {
    return (off_t)(r->sequence % r->slots) * RECORD_BYTES;
}

/* A removed disk has no directory, though its open file lives on. */
static bool gone(void) {
    char path[64];

    snprintf(path, sizeof(path), "/sys/block/%s", name);
    return access(path, F_OK) != 0;
}

static uint64_t disk_bytes(int fd) {
    uint64_t bytes = 0;

    ioctl(fd, BLKGETSIZE64, &bytes);
    return bytes;
}

/* virtio-blk tells a serial as text, SCSI as page 0x80 after four bytes. */
static void read_serial(char serial[24]) {
    char path[64], text[64] = "";
    const char *start = text;
    FILE *file;

    snprintf(path, sizeof(path), "/sys/block/%s/serial", name);
    file = fopen(path, "r");
    if (!file) {
        snprintf(path, sizeof(path), "/sys/block/%s/device/vpd_pg80", name);
        file = fopen(path, "r");
        start = text + 4;
    }
    if (!file)
        return;
    if (fread(text, 1, sizeof(text) - 1, file))
        memcpy(serial, start, strcspn(start, "\n"));
    fclose(file);
}

/* Ends the process; the keeper will start another if the disk is there. */
static _Noreturn void give_up(const char *action) {
    if (!gone())
        printf("%s: cannot %s: %s\n", name, action, strerror(errno));
    pause_us(RETRY_US);
    exit(EXIT_GONE);
}

static ssize_t read_chunk(int fd, off_t at) {
    ssize_t got = pread(fd, chunk, CLAIM_BYTES, at);

    if (got < 0)
        give_up("read");
    return got;
}

/* Leaves the newest record of the ring in `record`; false: there is none. */
static bool find_newest(int fd, uint32_t slots) {
    off_t end = (off_t)slots * RECORD_BYTES;
    bool found = false;

    for (off_t at = 0; at < end; at += CLAIM_BYTES) {
        ssize_t got = read_chunk(fd, at);
        for (ssize_t i = 0; i + RECORD_BYTES <= got; i += RECORD_BYTES) {
            struct record *r = (struct record *)(chunk + i);
            if (at + i < end && valid(r) && r->slots == slots &&
                (!found || r->sequence > record->sequence)) {
                memcpy(record, r, sizeof(*r));
                found = true;
            }
        }
    }
    return found;
}

/*
 * Makes `record` the newest one of the disk's ring, or of a new ring none.
 * False: the disk bears something else.
 */
static bool claim(int fd) {
    static const uint8_t zeros[RECORD_BYTES];
    uint64_t blocks = disk_bytes(fd) / RECORD_BYTES;
    ssize_t got = read_chunk(fd, 0);
    bool blank = true;

    if (got < RECORD_BYTES)
        return false;
    for (ssize_t i = 0; i + RECORD_BYTES <= got; i += RECORD_BYTES) {
        struct record *r = (struct record *)(chunk + i);
        if (valid(r) && r->slots)
            return find_newest(fd, r->slots);
        blank = blank && !memcmp(r, zeros, RECORD_BYTES);
    }
    if (!blank)
        return false;
    memset(record, 0, sizeof(*record));
    record->slots = blocks < RING_SLOTS ? blocks : RING_SLOTS;
    return true;
}

/* Whoever holds the lock is the fast writer; it goes with the process. */
static uint32_t interval_us(void) {
    static int lock = -1;

    if (lock < 0)
        lock = open("/run/fast", O_RDWR | O_CREAT, 0600);
    return flock(lock, LOCK_EX | LOCK_NB) ? slow_us : fast_us;
}

/* Not 0. An emulated CPU gives no randomness early, and waiting for better
 * would cost a second of the boot; the clock makes up for it. */
static uint64_t run_id(void) {
    uint64_t id = 0;
    struct timespec t;

    getrandom(&id, sizeof(id), GRND_INSECURE);
    clock_gettime(CLOCK_REALTIME, &t);
    id ^= t.tv_sec * 1000000000ULL + t.tv_nsec;
    return id ? id : 1;
}

/* Turns `record` into the first of a new run. */
static void begin_run(int fd) {
    bool first = !record->run;

    record->sequence = first ? 0 : record->sequence + 1;
    record->previous = first ? 0 : record->checksum;
    memcpy(record->magic, RECORD_MAGIC, sizeof(record->magic));
    record->run = run_id();
    record->latency_ns = 0;
    record->disk_bytes = disk_bytes(fd);
    record->flags = FLAG_START;
    record->interval_us = interval_us();
    record->io_errors = record->bad_reads = 0;
    memset(record->serial, 0, sizeof(record->serial));
    read_serial(record->serial);
}

/* Stamps and seals the record. The filler differs in every sector of it. */
static void seal(void) {
    uint64_t state = record->run ^ record->sequence;

    record->guest_ns = now_ns();
    for (size_t i = 0; i + 8 <= sizeof(record->filler); i += 8) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        memcpy(record->filler + i, &state, 8);
    }
    record->checksum = crc32(record, offsetof(struct record, checksum));
}

/*
 * Writes the record, however often it takes: a sequence number is never left
 * out, and a retry writes the same bytes. Returns the errors met, or -1 when
 * the disk is gone or the writer must stop.
 */
static int write_out(int fd) {
    for (int errors = 0;; errors++) {
        if (pwrite(fd, record, RECORD_BYTES, offset_of(record)) ==
            RECORD_BYTES)
            return errors;
        if (gone())
            return -1;
        if (errors % 40 == 0)
            printf("%s: record %" PRIu64 " not written: %s\n", name,
                   record->sequence, strerror(errno));
        if (stopping)
            return -1;
        pause_us(RETRY_US);
    }
}

static void read_back(int fd) {
    if (pread(fd, check, RECORD_BYTES, offset_of(record)) == RECORD_BYTES &&
        !memcmp(check, record, RECORD_BYTES))
        return;
    if (gone())
        return;
    record->bad_reads++;
    printf("%s: record %" PRIu64 " reads back different\n", name,
           record->sequence);
}

/* Makes the next record out of the one that was just written. */
static void advance(int fd, uint64_t latency_ns, int errors) {
    record->previous = record->checksum;
    record->sequence++;
    record->latency_ns = latency_ns;
    record->disk_bytes = disk_bytes(fd);
    record->interval_us = interval_us();
    record->io_errors += errors;
    record->flags = stopping ? FLAG_STOP : 0;
}

static void report(uint64_t latency_ns) {
    static uint64_t worst, due;

    if (latency_ns > worst)
        worst = latency_ns;
    if (latency_ns >= SLOW_MS * 1000000ULL)
        printf("%s: record %" PRIu64 " took %" PRIu64 " ms\n", name,
               record->sequence, latency_ns / 1000000);
    if (record->guest_ns < due)
        return;
    printf("%s: record %" PRIu64 ", slowest %" PRIu64 " us, %u errors, "
           "%u bad reads\n", name, record->sequence, worst / 1000,
           record->io_errors, record->bad_reads);
    due = record->guest_ns + REPORT_S * 1000000000ULL;
    worst = 0;
}

static int keep_ring(int fd) {
    for (;;) {
        uint64_t latency_ns;
        int errors;

        seal();
        errors = write_out(fd);
        if (errors < 0)
            return stopping ? EXIT_STOPPED : EXIT_GONE;
        latency_ns = now_ns() - record->guest_ns;
        if (record->flags & FLAG_STOP) {
            printf("%s: stopped at %" PRIu64 "\n", name, record->sequence);
            return EXIT_STOPPED;
        }
        if (record->sequence % READ_BACK_EVERY == 0)
            read_back(fd);
        report(latency_ns);
        pause_us(record->interval_us);
        advance(fd, latency_ns, errors);
    }
}

static void *blocks(size_t bytes) {
    void *memory = aligned_alloc(RECORD_BYTES, bytes);

    if (!memory)
        exit(EXIT_FAILURE);
    return memory;
}

int main(int argc, char **argv) {
    struct sigaction action = {.sa_handler = on_sigterm};
    char path[64];
    int fd;

    if (argc != 4) {
        fputs("usage: writer NAME INTERVAL_US OTHERS_US\n", stderr);
        return EXIT_FAILURE;
    }
    name = argv[1];
    fast_us = atoi(argv[2]);
    slow_us = atoi(argv[3]);
    setlinebuf(stdout);
    sigaction(SIGTERM, &action, NULL);
    record = blocks(RECORD_BYTES);
    check = blocks(RECORD_BYTES);
    chunk = blocks(CLAIM_BYTES);
    snprintf(path, sizeof(path), "/dev/%s", name);
    fd = open(path, O_RDWR | O_DIRECT | O_DSYNC);
    if (fd < 0 && (errno == EROFS || errno == EACCES))
        return EXIT_NOT_OURS;
    if (fd < 0)
        give_up("open");
    if (!claim(fd)) {
        printf("%s: neither blank nor a ring, left alone\n", name);
        return EXIT_NOT_OURS;
    }
    begin_run(fd);
    printf("%s: writing from %" PRIu64 " on, serial %.24s\n", name,
           record->sequence, record->serial[0] ? record->serial : "none");
    return keep_ring(fd);
}
