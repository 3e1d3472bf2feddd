#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.
"""A writer like the guest's, for tests: the same ring, made in Python."""

import pathlib
import random
import struct
import zlib

from blockpath.observe import write_ring

SERIAL = b'0b6b3c5e-2f2f-4f7e-9'


class FakeWriter:
    """Keeps a ring in a file; ``lose`` and ``flip`` are what must not be."""

    def __init__(self, path: pathlib.Path, slots: int = 16,
                 seed: int = 1) -> None:
        self.path = path
        self.slots = slots
        self.random = random.Random(seed)
        self.sequence = 0
        self.previous = 0
        self.io_errors = self.bad_reads = 0
        if not path.exists():
            path.write_bytes(bytes(2 * slots * write_ring.RECORD_BYTES))
        self.start()

    def start(self) -> None:
        """Another run, as after a reboot."""
        self.run = self.random.getrandbits(64) | 1
        self.flags = write_ring.FLAG_START

    def compose(self) -> bytes:
        head = struct.pack(
            '<8s5Q6I24s', write_ring.MAGIC, self.sequence, self.run,
            self.sequence * 5_000_000, 300_000, 1 << 30, self.slots,
            self.flags, 5000, self.io_errors, self.bad_reads, self.previous,
            SERIAL)
        body = head + self.random.randbytes(
            write_ring.RECORD_BYTES - len(head) - 4)
        return body + struct.pack('<I', zlib.crc32(body))

    def put(self, block: bytes, sequence: int | None = None) -> None:
        if sequence is None:
            sequence = self.sequence
        with open(self.path, 'r+b') as file:
            file.seek(sequence % self.slots * write_ring.RECORD_BYTES)
            file.write(block)

    def get(self, sequence: int) -> bytes:
        with open(self.path, 'rb') as file:
            file.seek(sequence % self.slots * write_ring.RECORD_BYTES)
            return file.read(write_ring.RECORD_BYTES)

    def advance(self, block: bytes) -> None:
        self.previous = struct.unpack('<I', block[-4:])[0]
        self.sequence += 1
        self.flags = 0

    def write(self, count: int = 1) -> None:
        for _ in range(count):
            block = self.compose()
            self.put(block)
            self.advance(block)

    def stop(self) -> None:
        self.flags |= write_ring.FLAG_STOP
        self.write()

    def lose(self) -> None:
        """A record that the disk acknowledges and forgets."""
        self.advance(self.compose())

    def flip(self, sequence: int, byte: int) -> None:
        block = bytearray(self.get(sequence))
        block[byte] ^= 0x10
        self.put(bytes(block), sequence)
