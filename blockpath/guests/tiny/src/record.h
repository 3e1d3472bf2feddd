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
#ifndef BLOCKPATH_RECORD_H
#define BLOCKPATH_RECORD_H

#include <stdint.h>

/*
 * The ring that the writer keeps on a disk. From the host,
 * blockpath/observe/write_ring.py reads it; its HEADER struct is this one.
 *
 * Record n is the 4 KiB block at slot n % slots; slot 0 is the disk's first
 * block. Little endian. Record n+1 is written only when the disk has said
 * that n is on stable storage, so a host that finds n+1 must find n.
 *
 * The sequence never restarts: a writer that finds a ring goes on after its
 * newest record, under a new run id and with FLAG_START. A record carries the
 * checksum of the one before, so whatever is lost, replayed or swapped for
 * another disk's breaks the chain, over reboots too.
 */
#define RECORD_BYTES 4096
#define RING_SLOTS 4096
#define RECORD_MAGIC "BPWRITE1"
#define FLAG_START 1 /* the first record of a run */
#define FLAG_STOP 2  /* the last one: the writer was told to stop */

struct record {
    char magic[8];
    uint64_t sequence;
    uint64_t run;         /* random, one each start of a writer */
    uint64_t guest_ns;    /* guest's CLOCK_MONOTONIC when composed */
    uint64_t latency_ns;  /* of the write before; guest's clock; 0: first */
    uint64_t disk_bytes;  /* size of the disk as the guest sees it */
    uint32_t slots;       /* of this ring */
    uint32_t flags;
    uint32_t interval_us; /* the pause between two writes */
    uint32_t io_errors;   /* of this run so far; a failed write is retried */
    uint32_t bad_reads;   /* of this run: read back something else */
    uint32_t previous;    /* checksum of the record before; 0: no such */
    char serial[24];      /* of the disk, as the guest sees it */
    uint8_t filler[RECORD_BYTES - 100];
    uint32_t checksum;    /* CRC-32 (zlib's) of all before it */
} __attribute__((packed));

_Static_assert(sizeof(struct record) == RECORD_BYTES, "a record is a block");

#endif
