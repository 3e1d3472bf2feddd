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
"""What the host sees of a guest's writes: nothing wrong goes unseen."""

import contextlib
import fcntl
import itertools
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
import time
from unittest import mock

import hypothesis
from hypothesis import strategies as st
import testtools

from blockpath import errors
from blockpath.observe import write_follower
from blockpath.observe import write_ring
from blockpath.observe import write_watcher
from tests.unit.observe import fake_writer

SLOTS = 16
Kind = write_ring.Kind


class RingTestCase(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name) / 'volume'
        self.writer = fake_writer.FakeWriter(self.path, SLOTS)

    def kinds(self,
              result: write_ring.Result) -> list[tuple[Kind, int, int]]:
        return [(one.kind, one.first, one.last) for one in result.problems]


class TestVerify(RingTestCase):

    def verify(self) -> write_ring.Result:
        return write_ring.verify(self.path)

    def test_first_lap(self) -> None:
        self.writer.write(5)
        result = self.verify()
        self.assertTrue(result.ok)
        self.assertEqual((0, 4, 5),
                         (result.first, result.last, result.records))
        self.assertEqual('5 records, 0-4, 1 run: no gap, every checksum '
                         'right', str(result))

    def test_wrapped(self) -> None:
        self.writer.write(3 * SLOTS + 5)
        result = self.verify()
        self.assertTrue(result.ok)
        self.assertEqual((2 * SLOTS + 5, 3 * SLOTS + 4),
                         (result.first, result.last))
        self.assertEqual(SLOTS, result.records)

    def test_reboots_go_on(self) -> None:
        self.writer.write(4)
        self.writer.stop()
        self.writer.start()
        self.writer.write(3)
        result = self.verify()
        self.assertTrue(result.ok)
        self.assertEqual([(0, 4, True), (5, 7, False)],
                         [(run.first, run.last, run.stopped)
                          for run in result.runs])
        self.assertEqual(1, result.restarts)
        self.assertEqual('0b6b3c5e-2f2f-4f7e-9', result.runs[0].serial)

    def test_blank_disk_is_not_ok(self) -> None:
        self.assertFalse(self.verify().ok)
        self.assertEqual('no record', str(self.verify()))

    def test_no_such_file(self) -> None:
        self.assertRaises(FileNotFoundError, write_ring.verify,
                          self.path.with_name('other'))

    def test_short_file(self) -> None:
        self.writer.write(5)
        with open(self.path, 'r+b') as file:
            file.truncate(3 * write_ring.RECORD_BYTES)
        # What was cut off cannot be known of; what is there is right.
        self.assertEqual(2, self.verify().last)

    def test_lost_record(self) -> None:
        self.writer.write(SLOTS)
        self.writer.lose()
        self.writer.lose()
        self.writer.write(3)
        self.assertEqual([(Kind.MISSING, SLOTS, SLOTS + 1)],
                         self.kinds(self.verify()))

    def test_replayed_old_record(self) -> None:
        self.writer.write(3)
        old = self.writer.get(2)
        self.writer.write(SLOTS + 2)
        self.writer.put(old, 2)
        self.assertEqual([(Kind.MISSING, SLOTS + 2, SLOTS + 2)],
                         self.kinds(self.verify()))

    def test_chain_break(self) -> None:
        self.writer.write(6)
        self.writer.previous ^= 1
        self.writer.write(4)
        self.assertEqual([(Kind.CHAIN, 6, 6)], self.kinds(self.verify()))

    def test_run_that_does_not_say_it_starts(self) -> None:
        self.writer.write(6)
        self.writer.start()
        self.writer.flags = 0
        self.writer.write()
        self.assertEqual([(Kind.CHAIN, 6, 6)], self.kinds(self.verify()))

    def test_rewritten_from_zero(self) -> None:
        self.writer.write(6)
        self.writer.start()
        self.writer.sequence = 0
        self.writer.write(3)
        self.assertEqual([(Kind.CHAIN, 0, 0), (Kind.CHAIN, 3, 3)],
                         self.kinds(self.verify()))

    def test_what_the_guest_met(self) -> None:
        self.writer.io_errors = 2
        self.writer.write(3)
        result = self.verify()
        self.assertTrue(result.ok)
        self.assertEqual(2, result.io_errors)
        self.writer.bad_reads = 1
        self.writer.write()
        self.assertFalse(self.verify().ok)
        self.assertIn('1 bad reads', str(self.verify()))

    @hypothesis.settings(deadline=None, max_examples=150)
    @hypothesis.given(count=st.integers(1, 4 * SLOTS),
                      restarts=st.sets(st.integers(0, 4 * SLOTS)))
    def test_what_is_right_is_found_right(self, count: int,
                                          restarts: set[int]) -> None:
        writer = self.anew()
        for number in range(count):
            if number in restarts:
                writer.start()
            writer.write()
        result = self.verify()
        self.assertTrue(result.ok, str(result))
        self.assertEqual(min(count, SLOTS), result.records)
        self.assertEqual(count - 1, result.last)

    @hypothesis.settings(deadline=None, max_examples=150)
    @hypothesis.given(st.data())
    def test_any_byte_that_changes_is_found(self, data: st.DataObject
                                            ) -> None:
        count = data.draw(st.integers(2, 3 * SLOTS))
        writer = self.anew()
        writer.write(count)
        sequence = data.draw(st.integers(max(0, count - SLOTS), count - 1))
        writer.flip(sequence, data.draw(
            st.integers(0, write_ring.RECORD_BYTES - 1)))
        self.assertFalse(self.verify().ok)

    @hypothesis.settings(deadline=None, max_examples=150)
    @hypothesis.given(st.data())
    def test_any_block_that_moves_is_found(self, data: st.DataObject
                                           ) -> None:
        count = data.draw(st.integers(3, 3 * SLOTS))
        writer = self.anew()
        writer.write(count)
        places = st.integers(max(0, count - SLOTS), count - 1)
        source, target = data.draw(st.tuples(places, places).filter(
            lambda pair: pair[0] != pair[1]))
        writer.put(writer.get(source), target)
        hypothesis.assume(count > SLOTS or target != count - 1)
        self.assertFalse(self.verify().ok)

    def anew(self) -> fake_writer.FakeWriter:
        self.path.unlink(missing_ok=True)
        return fake_writer.FakeWriter(self.path, SLOTS)


class TestChunks(RingTestCase):

    def test_a_ring_of_several_chunks(self) -> None:
        slots = 2 * write_ring.CHUNK_RECORDS + 88
        self.path.unlink()
        writer = fake_writer.FakeWriter(self.path, slots)
        writer.write(slots + 300)
        with contextlib.closing(write_ring.Ring(self.path)) as ring:
            ring.find_slots()
            with mock.patch.object(os, 'preadv', wraps=os.preadv) as reads:
                found = ring.sequences()
        self.assertEqual(list(range(300, slots + 300)), found)
        self.assertEqual(3, reads.call_count)
        self.assertTrue(write_ring.verify(self.path).ok)


class TestDirect(RingTestCase):
    """Reads past the page cache, of a file where the file system can."""

    def setUp(self) -> None:
        super().setUp()
        try:
            os.close(os.open(self.path, os.O_RDONLY | os.O_DIRECT))
        except OSError as error:
            self.skipTest(f'O_DIRECT: {error}')

    def ring(self, direct: bool | None = True,
             path: pathlib.Path | None = None) -> write_ring.Ring:
        ring = write_ring.Ring(path or self.path, direct)
        self.addCleanup(ring.close)
        return ring

    def is_direct(self, ring: write_ring.Ring) -> bool:
        return bool(fcntl.fcntl(ring.fd, fcntl.F_GETFL) & os.O_DIRECT)

    def verify(self) -> write_ring.Result:
        """Verify the file as if it were a block device."""
        with mock.patch.object(pathlib.Path, 'is_block_device',
                               return_value=True):
            return write_ring.verify(self.path)

    def test_of_a_file_only_if_asked(self) -> None:
        self.assertTrue(self.is_direct(self.ring()))
        self.assertFalse(self.is_direct(self.ring(None)))

    def test_verified_is_the_same(self) -> None:
        self.writer.write(3 * SLOTS + 5)
        self.assertTrue(self.verify().ok)
        self.writer.lose()
        self.writer.write(2)
        self.writer.flip(3 * SLOTS, 2000)
        found = self.verify()
        self.assertEqual(
            [(Kind.MISSING, 3 * SLOTS + 5, 3 * SLOTS + 5),
             (Kind.BAD, 3 * SLOTS, 3 * SLOTS)], self.kinds(found))
        self.assertEqual(write_ring.verify(self.path), found)

    def test_short_file(self) -> None:
        self.writer.write(5)
        with open(self.path, 'r+b') as file:
            file.truncate(3 * write_ring.RECORD_BYTES + 512)
        self.assertEqual(2, self.verify().last)

    def test_followed(self) -> None:
        follower = write_follower.Follower(self.ring(), 100.0)
        for now in range(3 * SLOTS):
            self.writer.write()
            follower.poll(float(now))
        self.assertEqual([], follower.problems)
        self.assertEqual(3 * SLOTS - 1, follower.at)

    def test_block_device(self) -> None:
        """What is written underneath its page cache is seen."""
        losetup = shutil.which('losetup', path='/usr/sbin:/sbin')
        if os.geteuid() or not losetup:
            self.skipTest('only root makes a loop device')
        made = subprocess.run([losetup, '--find', '--show', self.path],
                              capture_output=True, text=True)
        if made.returncode:
            self.skipTest(made.stderr)
        device = pathlib.Path(made.stdout.strip())
        self.addCleanup(subprocess.check_call,
                        [losetup, '--detach', device])
        self.writer.write(3)
        cached = self.ring(direct=False, path=device)
        cached.find_slots()
        ring = self.ring(None, device)
        follower = write_follower.Follower(ring, 100.0)
        self.writer.write(2)
        self.assertIsNone(cached.sequence(3))
        follower.poll(100.1)
        self.assertEqual(4, follower.at)
        self.assertEqual(4, write_ring.verify(device).last)


class TestFollower(RingTestCase):
    """The watcher, poll by poll, by a clock of the test's own."""

    def setUp(self) -> None:
        super().setUp()
        self.now = 100.0

    def follow(self) -> write_follower.Follower:
        ring = write_ring.Ring(self.path)
        self.addCleanup(ring.close)
        self.follower = write_follower.Follower(ring, self.now)
        return self.follower

    def poll(self, seconds: float = 0.002) -> None:
        self.now += seconds
        self.follower.poll(self.now)

    def found(self) -> list[tuple[Kind, int, int]]:
        return [(one.kind, one.first, one.last)
                for one in self.follower.problems]

    def test_from_the_first_record_on(self) -> None:
        self.follow()
        for _ in range(3 * SLOTS):
            self.writer.write()
            self.poll()
        self.assertEqual([], self.found())
        self.assertEqual(3 * SLOTS, len(self.follower.times))
        self.assertEqual(3 * SLOTS - 1, self.follower.at)

    def test_starts_after_what_is_there(self) -> None:
        self.writer.write(SLOTS + 3)
        self.follow()
        self.poll()
        self.assertEqual(0, len(self.follower.times))
        self.writer.write(2)
        self.poll()
        self.assertEqual([self.now] * 2, list(self.follower.times))
        self.assertEqual([], self.found())

    def test_over_a_reboot(self) -> None:
        self.follow()
        self.writer.write(3)
        self.poll()
        self.writer.start()
        self.writer.write(3)
        self.poll(30.0)
        self.assertEqual([], self.found())
        self.assertEqual(2, len(self.follower.runs.runs))

    def test_missing(self) -> None:
        self.follow()
        self.writer.write(2)
        self.writer.lose()
        self.poll()
        self.assertEqual([], self.found())
        self.writer.write(2)
        self.poll()
        self.assertEqual([(Kind.MISSING, 2, 2)], self.found())
        self.assertEqual(4, self.follower.at)

    def test_polls_that_come_late_are_noted(self) -> None:
        self.follow()
        self.poll()
        self.poll(0.5)
        self.poll()
        [late] = self.follower.blind
        self.assertAlmostEqual(100.002, late.at)
        self.assertAlmostEqual(0.5, late.seconds)
        self.assertEqual(self.now, self.follower.looked)

    def test_many_missing(self) -> None:
        self.follow()
        self.writer.write(2)
        self.poll()
        for _ in range(3):
            self.writer.lose()
        self.writer.write(2)
        self.poll(0.002)
        self.poll(1.1)
        self.poll(0.002)
        self.assertEqual([(Kind.MISSING, 2, 4)], self.found())
        self.assertEqual(6, self.follower.at)

    def test_half_way_record_is_waited_for(self) -> None:
        self.follow()
        self.writer.write(2)
        whole = self.writer.compose()
        self.writer.put(whole[:512] + bytes(write_ring.RECORD_BYTES - 512))
        self.poll()
        self.poll(0.1)
        self.assertEqual(2, len(self.follower.times))
        self.writer.put(whole)
        self.poll()
        self.assertEqual(3, len(self.follower.times))
        self.assertEqual([], self.found())

    def test_bad_record_is_seen_before_it_is_overwritten(self) -> None:
        self.follow()
        self.writer.write(2)
        self.writer.flip(1, 2000)
        self.poll()
        self.poll(write_follower.TORN_S + 0.1)
        self.assertEqual([(Kind.BAD, 1, 1)], self.found())
        self.writer.write(SLOTS)
        self.poll()
        self.assertEqual([(Kind.BAD, 1, 1)], self.found())

    def test_chain_break(self) -> None:
        self.follow()
        self.writer.write(2)
        self.poll()
        self.writer.previous ^= 1
        self.writer.write(2)
        self.poll()
        self.assertEqual([(Kind.CHAIN, 2, 2)], self.found())

    def test_last_write_of_a_killed_guest_may_be_rewritten(self) -> None:
        self.follow()
        self.writer.write(2)
        self.writer.put(self.writer.compose())  # seen here, not by the guest
        self.poll()
        self.writer.start()
        self.writer.write(2)
        self.poll()
        self.assertEqual([], self.found())

    def test_overrun_is_told(self) -> None:
        self.follow()
        self.writer.write(2)
        self.poll()
        self.writer.write(SLOTS + 5)
        self.poll()
        self.assertEqual([(Kind.OVERRUN, 2, 6)], self.found())
        self.assertEqual(SLOTS + 6, self.follower.at)
        self.assertEqual(2 + SLOTS, len(self.follower.times))

    def test_ring_that_goes_back(self) -> None:
        self.follow()
        self.writer.write(4)
        before = self.path.read_bytes()
        self.writer.write(4)
        self.poll()
        self.path.write_bytes(before)
        self.poll(1.1)
        self.assertEqual([(Kind.REGRESSED, 4, 7)], self.found())
        self.poll(5.0)
        self.assertEqual(1, len(self.found()))

    def test_ring_that_is_wiped(self) -> None:
        self.follow()
        self.writer.write(4)
        self.poll()
        self.path.write_bytes(bytes(SLOTS * write_ring.RECORD_BYTES))
        self.poll(1.1)
        self.poll(5.0)
        self.assertEqual([(Kind.REGRESSED, 0, 3)], self.found())

    def test_file_that_grows(self) -> None:
        self.follow()
        self.writer.write(4)
        self.poll()
        with open(self.path, 'r+b') as file:
            file.truncate(1 << 30)
        self.writer.write(4)
        self.poll()
        self.assertEqual([], self.found())
        self.assertEqual(7, self.follower.at)

    @hypothesis.settings(deadline=None, max_examples=100)
    @hypothesis.given(st.lists(st.sampled_from(
        ['write', 'write', 'write', 'start', 'lose', 'break', 'poll']),
        max_size=60))
    def test_what_is_wrong_is_found_and_no_more(self, steps: list[str]
                                                ) -> None:
        """However polls and faults fall; the ring is never overrun."""
        self.path.unlink()
        writer = fake_writer.FakeWriter(self.path, 64)
        self.follow()
        faults = 0
        for step in steps:
            if step == 'poll':
                self.poll()
            elif step == 'break' and writer.sequence:
                writer.previous ^= 1
                writer.write()
                writer.write(2)
                faults += 1
            elif step == 'lose':
                writer.lose()
                writer.write(2)
                faults += 1
            elif step == 'start':
                writer.start()
            else:
                writer.write()
        self.poll()
        self.poll(1.1)
        self.poll()
        self.assertEqual(faults > 0, bool(self.found()))
        self.assertLessEqual(len(self.found()), faults)


class TestWatcher(RingTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.writer = fake_writer.FakeWriter(self.path.with_name('ring'),
                                             1024)
        #: When it was about to write each of its records.
        self.written: list[float] = []
        self.running = threading.Event()
        self.ended = threading.Event()
        self.running.set()
        self.thread = threading.Thread(target=self.keep_writing, daemon=True)

    def watcher(self) -> write_watcher.BaseWatcher:
        return write_watcher.Watcher(self.writer.path)

    def start_writing(self) -> None:
        self.thread.start()
        self.addCleanup(self.thread.join)
        self.addCleanup(self.ended.set)

    def keep_writing(self) -> None:
        while not self.ended.is_set():
            if self.running.is_set():
                self.written.append(time.monotonic())
                self.writer.write()
            time.sleep(0.005)

    def pause(self, start: float, end: float) -> float:
        """Return for how long nothing was written, at most."""
        inside = [at for at in self.written if start <= at <= end]
        return max(b - a for a, b in
                   itertools.pairwise([start, *inside, end]))

    def test_measures_a_stall(self) -> None:
        with self.watcher() as watcher:
            self.start_writing()
            watcher.wait(20, timeout=10)
            idle = watcher.mark('idle')
            watcher.wait(20, timeout=10)
            stop = watcher.mark('stop')
            self.running.clear()
            time.sleep(0.3)
            self.assertThat(watcher.longest_stall(stop).seconds,
                            testtools.matchers.GreaterThan(0.25))
            self.running.set()
            watcher.wait(20, timeout=10)
            end = watcher.mark('end')
        stall = watcher.longest_stall(stop, end)
        margin = 0.05 + watcher.longest_blind(idle)
        pause = self.pause(stop, end)
        self.assertAlmostEqual(pause, stall.seconds, delta=margin)
        self.assertAlmostEqual(stop, stall.at, delta=margin)
        self.assertAlmostEqual(self.pause(idle, stop),
                               watcher.longest_stall(idle, stop).seconds,
                               delta=margin)
        worst = max(watcher.series(stop), key=lambda one: one[1])
        self.assertAlmostEqual(pause, worst[1], delta=margin)
        self.assertTrue(watcher.result().ok, str(watcher.result()))
        self.assertEqual(['idle', 'stop', 'end'],
                         [label for _, label in watcher.marks])

    def test_waiting_in_vain(self) -> None:
        with self.watcher() as watcher:
            error = self.assertRaises(errors.BlockpathError, watcher.wait,
                                      5, timeout=0.05)
            later = watcher.longest_stall(end=time.monotonic() + 60)
            self.assertGreater(later.seconds, 59)
        self.assertIn('0 of 5 records', str(error))
        self.assertFalse(watcher.result().ok)
        self.assertGreater(watcher.longest_stall().seconds, 0.04)

    def test_a_failure_of_its_own_is_told(self) -> None:
        def fail(now: float) -> None:
            raise OSError('the disk is on fire')

        watcher = write_watcher.Watcher(self.writer.path)
        watcher._follower.poll = fail  # type: ignore[method-assign]
        with watcher:
            watcher._thread.join(5)
            for function in (watcher.result, watcher.longest_stall):
                error = self.assertRaises(errors.BlockpathError, function)
                self.assertIn('on fire', str(error))

    def test_no_such_file(self) -> None:
        self.assertRaises(errors.BlockpathError, write_watcher.Watcher,
                          self.path.with_name('none'))
