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

import os
import platform
import subprocess
import sys
import time
import tracemalloc
import unittest

from cinder.tests.unit import test
from cinder.tests.unit.volume.copier import fakes
from cinder.volume.copier import engine
from cinder.volume.copier import limits
from cinder.volume.copier import volume_file

DATA = volume_file.Kind.DATA
ZERO = volume_file.Kind.ZERO
HOLE = volume_file.Kind.HOLE

BLOCK = 256 << 10
GRAIN = 64 << 10
#: Prints how much memory it has, before and after.
GIVE_BACK = """
import os
from cinder.volume.copier import engine

def resident():
    with open('/proc/self/statm') as figures:
        return int(figures.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')

# Too small to be given back one by one, and what is below the last one not at
# all.
parts = [b'x' * 100000 for _ in range(640)]
last = parts.pop()
del parts
print(resident())
engine._give_back_memory()
print(resident())
"""


def extents(*parts):
    at, result = 0, []
    for length, kind in parts:
        result.append(volume_file.Extent(at, length, kind))
        at += length
    return result


class CopyTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        self.data = os.urandom(4 * BLOCK + 12345)
        self.old = b'\xff' * len(self.data)

    def copy(self, source, destination, length=None, **options):
        options.setdefault('block', BLOCK)
        return engine.copy(source, destination,
                           source.size if length is None else length,
                           engine.Options(**options))

    def test_copies_all_and_flushes_last(self):
        destination = fakes.MemoryFile(self.old)
        progress = self.copy(fakes.MemoryFile(self.data), destination)
        self.assertEqual(self.data, destination.durable)
        self.assertEqual(('flush',), destination.log[-1])
        self.assertEqual(len(self.data), progress.done)
        self.assertEqual(len(self.data), progress.written)

    def test_only_the_length_is_copied(self):
        destination = fakes.MemoryFile(self.old)
        self.copy(fakes.MemoryFile(self.data), destination, 1000)
        self.assertEqual(self.data[:1000] + self.old[1000:],
                         destination.durable)

    def test_an_end_that_is_too_small_is_not_touched(self):
        small = fakes.MemoryFile(b'x' * 100)
        large = fakes.MemoryFile(self.data)
        for source, destination in (small, large), (large, small):
            self.assertRaises(engine.CopyError, self.copy, source,
                              destination, 101)
            self.assertEqual(([], []), (source.log, destination.log))

    def test_out_of_order_completions(self):
        source = fakes.FaultyFile(self.data, lambda among: 'none',
                                  in_flight=4)
        destination = fakes.FaultyFile(self.old, lambda among: 'none',
                                       in_flight=4)
        self.copy(source, destination, block=GRAIN)
        self.assertEqual(self.data, destination.durable)
        offsets = [entry[1] for entry in source.log]
        self.assertNotEqual(sorted(offsets), offsets)

    def test_in_flight_is_bounded(self):
        class Counting(fakes.FaultyFile):
            most = 0

            def drive(self, timeout):
                self.most = max(self.most, len(self._waiting))
                super().drive(timeout)

        source = Counting(self.data, lambda among: 'none', in_flight=16)
        self.copy(source, fakes.MemoryFile(self.old), block=GRAIN,
                  in_flight=3)
        self.assertEqual(3, source.most)

    def test_holes_are_zeroed_unless_the_destination_is_zero(self):
        self.data = bytes(BLOCK) + self.data[BLOCK:]
        known = extents((BLOCK, HOLE), (len(self.data) - BLOCK, DATA))
        source = fakes.MemoryFile(self.data, extents=known)
        destination = fakes.MemoryFile(self.old)
        self.copy(source, destination)
        self.assertEqual(self.data, destination.durable)
        self.assertIn(('zero', 0, BLOCK), destination.log)
        self.assertEqual(BLOCK, source.log[0][1])

        destination = fakes.MemoryFile(bytes(len(self.data)))
        progress = self.copy(source, destination, destination_is_zero=True)
        self.assertEqual(self.data, destination.durable)
        self.assertEqual(BLOCK, progress.skipped)
        self.assertEqual([], [e for e in destination.log if e[0] == 'zero'])

    def test_asks_the_destination_whether_it_is_zero(self):
        source = fakes.MemoryFile(bytes(BLOCK))
        for kind in HOLE, ZERO:
            destination = fakes.MemoryFile(
                bytes(BLOCK), extents=extents((GRAIN, ZERO),
                                              (BLOCK - GRAIN, kind)))
            self.copy(source, destination)
            self.assertEqual([('flush',)], destination.log)
        destination = fakes.MemoryFile(
            b'x' * BLOCK, extents=extents((GRAIN, DATA),
                                          (BLOCK - GRAIN, HOLE)))
        self.copy(source, destination)
        self.assertEqual(bytes(BLOCK), destination.durable)

    def test_zeros_that_were_written_are_left_out(self):
        data = bytearray(self.data)
        data[GRAIN:3 * GRAIN] = bytes(2 * GRAIN)
        data[2 * BLOCK:3 * BLOCK] = bytes(BLOCK)
        data[-100:] = bytes(100)
        destination = fakes.MemoryFile(bytes(len(data)))
        progress = self.copy(fakes.MemoryFile(bytes(data)), destination,
                             destination_is_zero=True)
        self.assertEqual(data, destination.durable)
        self.assertEqual(2 * GRAIN + BLOCK, progress.skipped)
        self.assertIn(('write', 3 * GRAIN, GRAIN), destination.log)
        self.assertNotIn(GRAIN, [e[1] for e in destination.log[:-1]])

    def test_extents_with_a_gap_are_refused(self):
        whole = len(self.data)
        for known in (
                [volume_file.Extent(10, whole - 10, DATA)],
                [volume_file.Extent(0, whole - 10, DATA)],
                [volume_file.Extent(0, whole, HOLE),
                 volume_file.Extent(0, whole, DATA)],
                [volume_file.Extent(0, 10, DATA),
                 volume_file.Extent(20, whole - 20, DATA)]):
            source = fakes.MemoryFile(self.data, extents=known)
            source.extents = lambda *args: iter(known)
            self.assertRaises(engine.CopyError, self.copy, source,
                              fakes.MemoryFile(self.old))

    def test_the_first_error_ends_it_and_nothing_is_left_in_flight(self):
        left = ['none', 'none', 'EIO']
        source = fakes.FaultyFile(
            self.data, lambda among: left.pop(0) if left else 'none',
            in_flight=4)
        destination = fakes.MemoryFile(self.old)
        error = self.assertRaises(volume_file.VolumeIOError, self.copy,
                                  source, destination, block=GRAIN)
        self.assertEqual(GRAIN, error.length)
        self.assertEqual([], source._waiting)
        self.assertNotIn(('flush',), destination.log)

    def test_a_file_that_raises_at_once(self):
        class Broken(fakes.MemoryFile):
            def start_write(self, offset, data, done):
                raise RuntimeError('broken')

        self.assertRaises(RuntimeError, self.copy,
                          fakes.MemoryFile(self.data), Broken(self.old))

    def test_a_file_that_gives_too_little(self):
        class Liar(fakes.MemoryFile):
            def start_read(self, offset, length, done):
                done(None, bytes(length - 1))

        for ends in ((Liar(self.data), fakes.MemoryFile(self.old)),
                     (fakes.MemoryFile(self.data), Liar(self.old))):
            self.assertRaises(engine.CopyError, self.copy, *ends,
                              verify=engine.Verify.FULL)

    def test_a_source_that_shrank_behind_what_was_read(self):
        source = fakes.MemoryFile(self.data)
        source._current_size = lambda: len(self.data) - 1
        self.assertRaises(volume_file.VolumeEndError, self.copy, source,
                          fakes.MemoryFile(self.old))

    def test_a_failed_flush_is_a_failed_copy(self):
        destination = fakes.FaultyFile(
            self.old, lambda among: 'EIO' if len(among) == 3 else 'none')
        self.assertRaises(volume_file.VolumeIOError, self.copy,
                          fakes.MemoryFile(self.data), destination)

    def test_cancelled_between_blocks(self):
        calls = iter([False, False, True])
        destination = fakes.MemoryFile(self.old)
        self.assertRaises(engine.Cancelled, self.copy,
                          fakes.MemoryFile(self.data), destination,
                          cancelled=lambda: next(calls))
        self.assertEqual(2, len(destination.log))

    def test_stall(self):
        class Hung(fakes.MemoryFile):
            def start_write(self, offset, data, done):
                pass

        self.assertRaises(engine.CopyError, self.copy,
                          fakes.MemoryFile(self.data), Hung(self.old),
                          stall=0.01)

    def test_checkpoints_are_flushed_and_a_copy_goes_on_from_one(self):
        destination = fakes.FaultyFile(self.old, lambda among: 'none',
                                       in_flight=4)
        noted = []

        def checkpoint(offset):
            self.assertEqual(self.data[:offset],
                             destination.durable[:offset])
            noted.append(offset)
            if len(noted) == 3:
                raise fakes.Killed()

        source = fakes.MemoryFile(self.data)
        self.assertRaises(fakes.Killed, self.copy, source, destination,
                          block=GRAIN, checkpoint=checkpoint,
                          checkpoint_step=2 * GRAIN)
        self.assertEqual(sorted(set(noted)), noted)
        again = fakes.MemoryFile(destination.durable)
        del source.log[:]
        self.copy(source, again, start=noted[-1])
        self.assertEqual(self.data, again.durable)
        self.assertEqual(noted[-1], source.log[0][1])

    def test_verification_finds_a_byte_that_differs(self):
        class Rotten(fakes.MemoryFile):
            def _flush(self):
                super()._flush()
                self.content[self.rot] ^= 1

        data = bytes(BLOCK) + self.data[BLOCK:]
        known = extents((BLOCK, HOLE), (len(data) - BLOCK, DATA))
        source = fakes.MemoryFile(data, extents=known)
        for rot in 5, BLOCK + 5, len(data) - 1:
            destination = Rotten(self.old)
            destination.rot = rot
            error = self.assertRaises(
                engine.CopyError, self.copy, source, destination,
                verify=engine.Verify.FULL)
            self.assertIn('not those', str(error))
            # The first and the last block are among every sample.
            if rot != BLOCK + 5:
                self.assertRaises(engine.CopyError, self.copy, source,
                                  destination, verify=engine.Verify.SAMPLED)
        progress = self.copy(source, fakes.MemoryFile(self.old),
                             verify=engine.Verify.FULL)
        self.assertEqual(len(data), progress.verified)

    def test_verification_asks_the_storage(self):
        class Cached(fakes.MemoryFile):
            """What is written goes wrong, and shows once it is forgotten."""

            def _write_at(self, offset, data):
                self.cache = bytes(data)
                return super()._write_at(offset, bytes(len(data)))

            def _read_at(self, offset, length):
                return self.cache or super()._read_at(offset, length)

            def forget(self):
                self.cache = b''

        for verify in (engine.Verify.SAMPLED, engine.Verify.FULL):
            self.assertRaises(
                engine.CopyError, self.copy, fakes.MemoryFile(b'x' * 100),
                Cached(bytes(100)), verify=verify)

    def test_blocks_are_what_suits_the_destination(self):
        source = fakes.MemoryFile(self.data)
        destination = fakes.MemoryFile(self.old)
        source.block, destination.block = GRAIN, 2 * BLOCK
        self.copy(source, destination, block=None, verify=engine.Verify.FULL)
        sizes = [2 * BLOCK, 2 * BLOCK, len(self.data) - 4 * BLOCK]
        for file in (source, destination):
            self.assertEqual(sizes, [entry[2] for entry in file.log
                                     if entry[0] == 'read'])

    def test_blocks_are_no_larger_than_suits_the_source(self):
        source = fakes.MemoryFile(self.data)
        destination = fakes.MemoryFile(self.old)
        source.largest_read, destination.block = BLOCK, 2 * BLOCK
        self.copy(source, destination, block=None, verify=engine.Verify.FULL)
        sizes = 4 * [BLOCK] + [len(self.data) - 4 * BLOCK]
        for file in (source, destination):
            self.assertEqual(sizes, [entry[2] for entry in file.log
                                     if entry[0] == 'read'])

    def test_what_is_remembered_of_a_block(self):
        digests = engine._Digests()
        self.assertEqual(0, len(digests))
        places = [(number << 40, number + 1, bytes([number]) * 16)
                  for number in range(100)]
        for place in places:
            digests.add(*place)
        self.assertEqual(places, list(digests))

    def test_memory_of_a_verification(self):
        digests = engine._Digests()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for number in range(10000):
            digests.add(number << 20, 1 << 20, engine._digest(b'%d' % number))
        self.assertLess(tracemalloc.get_traced_memory()[0], 10000 * 40)

    def test_no_more_in_flight_than_is_of_use_to_either_end(self):
        class Counting(fakes.FaultyFile):
            most = 0

            def start_read(self, *args):
                super().start_read(*args)
                self.most = max(self.most, len(self._waiting))

        for depth, most in (16, 4), (3, 3), (1, 4):
            source = Counting(self.data, lambda among: 'none', in_flight=4)
            destination = fakes.MemoryFile(self.old)
            destination.in_flight = depth
            self.copy(source, destination, in_flight=16)
            self.assertEqual(most, source.most)

    @unittest.skipUnless(platform.libc_ver()[0] == 'glibc',
                         'needs a C library that can')
    def test_memory_that_was_freed_is_given_back(self):
        # With no other threads, and the usual malloc.
        env = {key: value for key, value in os.environ.items()
               if not key.startswith(('MALLOC_', 'GLIBC_', 'LD_PRELOAD'))}
        before, after = map(int, subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', GIVE_BACK], env=env,
            check=True, capture_output=True).stdout.split())
        self.assertLess(after, before - (32 << 20))

    def test_a_verification_of_large_blocks_reads_fewer_at_once(self):
        class Counting(fakes.FaultyFile):
            most = 0

            def start_read(self, *args):
                super().start_read(*args)
                self.most = max(self.most, len(self._waiting))

        data = os.urandom(8 * volume_file.BLOCK)
        for blocks, most in (1, 4), (2, 2), (8, 1):
            destination = Counting(bytes(len(data)), lambda among: 'none',
                                   in_flight=4)
            destination.block = blocks * volume_file.BLOCK
            self.copy(fakes.MemoryFile(data), destination, block=None,
                      verify=engine.Verify.FULL, in_flight=16)
            self.assertEqual(most, destination.most)

    def test_a_verification_that_fails_leaves_nothing_in_flight(self):
        destination = fakes.FaultyFile(self.old, lambda among: 'none',
                                       in_flight=4)
        start_read = destination.start_read

        def wrong(offset, length, done):
            start_read(offset, length, lambda error, data: done(
                error, bytes(length) if not offset else data))
        destination.start_read = wrong
        self.assertRaises(engine.CopyError, self.copy,
                          fakes.MemoryFile(self.data), destination,
                          verify=engine.Verify.FULL, in_flight=4)
        self.assertTrue(destination.idle())

    def test_the_first_error_is_told(self):
        class Failing(fakes.FaultyFile):

            def start_read(self, offset, length, done):
                super().start_read(offset, length, lambda error, data: done(
                    OSError(offset, 'number'), None))

        order = []
        source = Failing(self.data, lambda among: 'none', in_flight=3)
        now = source._now

        def noted(done, action, offset, *args):
            now(lambda *end: (order.append(offset), done(*end)), action,
                offset, *args)
        source._now = noted
        error = self.assertRaises(OSError, self.copy, source,
                                  fakes.MemoryFile(self.old), in_flight=3)
        self.assertLess(1, len(order))
        self.assertEqual(order[0], error.errno)

    def test_a_pause_for_the_limit_is_no_stall(self):
        self.copy(fakes.MemoryFile(bytes(3 * 4096)),
                  fakes.MemoryFile(bytes(3 * 4096)), block=4096, stall=0.2,
                  limiter=limits.Limiter(2 * 4096))

    def test_a_pause_for_the_limit_can_be_cancelled(self):
        began = time.monotonic()
        self.assertRaises(
            engine.Cancelled, self.copy, fakes.MemoryFile(bytes(3 * 4096)),
            fakes.MemoryFile(bytes(3 * 4096)), block=4096,
            limiter=limits.Limiter(100),
            cancelled=lambda: time.monotonic() - began > 0.2)
        self.assertLess(time.monotonic() - began, 5)

    def test_verification_keeps_to_the_limit(self):
        taken = []
        limiter = limits.Limiter(1 << 40)
        reserve = limiter.reserve
        limiter.reserve = lambda length: taken.append(length) or reserve(
            length)
        self.copy(fakes.MemoryFile(b'x' * 4 * BLOCK),
                  fakes.MemoryFile(bytes(4 * BLOCK)), limiter=limiter,
                  verify=engine.Verify.FULL)
        self.assertEqual([BLOCK] * 8, taken)

    def test_limit(self):
        limiter = limits.Limiter(1000)
        waits = [limiter.reserve(500) for i in range(3)]
        self.assertEqual(0, waits[0])
        self.assertAlmostEqual(0.5, waits[1], 1)
        self.assertAlmostEqual(1.0, waits[2], 1)
        self.assertIsNone(limits.limiter(0))
        self.assertIs(limits.limiter(7), limits.limiter(7))

    def test_limited_copy_takes_its_time(self):
        paused = []
        self.patch('cinder.volume.copier.engine._Transfer._pause',
                   lambda transfer, seconds: paused.append(seconds))
        self.copy(fakes.MemoryFile(self.data), fakes.MemoryFile(self.old),
                  limiter=limits.Limiter(BLOCK))
        self.assertEqual(5, len(paused))
        self.assertAlmostEqual(4, paused[-1], 0)


class WaitingTestCase(test.TestCase):

    class Driven(fakes.MemoryFile):
        """Has nothing in flight, so that driving it ends at once."""

        driven = True
        drives = 0

        def drive(self, timeout):
            self.drives += 1

    def test_a_limited_copy_does_not_spin(self):
        source = self.Driven(bytes(4 * 4096))
        engine.copy(source, fakes.MemoryFile(bytes(4 * 4096)), 4 * 4096,
                    engine.Options(block=4096,
                                   limiter=limits.Limiter(8 * 4096)))
        self.assertLess(source.drives, 50)


class RunsTestCase(test.TestCase):

    def test_runs(self):
        x, o = b'x' * GRAIN, bytes(GRAIN)
        for data, expected in (
                (b'', []),
                (x, [(0, GRAIN, False)]),
                (o, [(0, GRAIN, True)]),
                (o + o[:1], [(0, GRAIN + 1, True)]),
                (o + b'x', [(0, GRAIN, True), (GRAIN, GRAIN + 1, False)]),
                (x + o + o + x, [(0, GRAIN, False),
                                 (GRAIN, 3 * GRAIN, True),
                                 (3 * GRAIN, 4 * GRAIN, False)]),
                (o[1:] + b'x' + o, [(0, GRAIN, False),
                                    (GRAIN, 2 * GRAIN, True)])):
            for form in bytes, bytearray, memoryview:
                self.assertEqual(expected, list(engine.runs(form(data))))
