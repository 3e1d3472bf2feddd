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
"""The guest itself, booted for real, and what the host sees of its writes."""

import pathlib
import tempfile
import time

import testtools

from blockpath.guests import tiny
from blockpath.observe import write_ring
from blockpath.observe import write_watcher
from tests.guests import machine

SERIAL = '0b6b3c5e-2f2f-4f7e-9'
MIB = 1 << 20
#: How exactly a stall is measured, idle machine or busy.
DELTA_S = 0.05
#: Nova's soft stop polls once a second; it must not wait for the guest.
POWER_OFF_S = 3.0


class GuestTestCase(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.image = tiny.build()
        folder = tempfile.TemporaryDirectory(prefix='blockpath-guest-')
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def boot(self, kind: str, bus: str) -> machine.Machine:
        booted = machine.Machine(self.image, self.folder, kind, bus)
        self.addCleanup(booted.close)
        return booted

    def disk(self, name: str, mib: int = 64) -> pathlib.Path:
        path = self.folder / name
        with open(path, 'wb') as file:
            file.truncate(mib * MIB)
        return path

    def newest(self, path: pathlib.Path) -> write_ring.Record:
        ring = write_ring.Ring(path)
        self.addCleanup(ring.close)
        ring.find_slots()
        record = ring.newest()
        assert record is not None
        return record

    def watch(self, path: pathlib.Path) -> write_watcher.Watcher:
        watcher = write_watcher.Watcher(path).start()
        self.addCleanup(watcher.stop)
        return watcher

    def detail(self, **figures: float) -> None:
        """Figures that the test's report shows."""
        for name, figure in figures.items():
            self.addDetail(name, testtools.content.text_content(
                f'{figure:.3f}'))


class TestGuest(GuestTestCase):

    def test_a_disk_through_its_life(self) -> None:
        """q35, virtio-blk: plugged, stalled, resized, away, back, off."""
        vm = self.boot('q35', 'virtio')
        vm.wait_text('left alone')  # the disk that it booted from
        path = self.disk('volume')
        watcher = self.watch(path)
        name = vm.plug(path, SERIAL)
        watcher.wait(100, timeout=machine.BOOT_S)
        self.detail(first_write=watcher.series()[0][0] - vm.started,
                    resident_mib=vm.resident_mib())

        record = self.newest(path)
        self.assertEqual((SERIAL, 64 * MIB, 4096, 5000),
                         (record.serial, record.disk_bytes, record.slots,
                          record.interval_us))
        self.check_stall(vm, watcher)
        self.check_resize(vm, watcher, name)

        vm.unplug(name)
        vm.wait_text('unplugged', 5)
        vm.plug(path, SERIAL)
        watcher.wait(50, timeout=10)

        seconds = vm.power_button(POWER_OFF_S)
        self.detail(power_off=seconds)
        watcher.stop()
        seen, kept = watcher.result(), write_ring.verify(path)
        self.assertTrue(seen.ok, str(seen))
        self.assertTrue(kept.ok, str(kept))
        self.assertEqual(kept.last, seen.last)
        self.assertEqual([False, True], [run.stopped for run in seen.runs])

    def check_stall(self, vm: machine.Machine,
                    watcher: write_watcher.Watcher) -> None:
        """QEMU is stopped for 0.5 s: so says the watcher."""
        start = watcher.mark('stop')
        vm.qmp('stop')
        stopped = time.monotonic()
        time.sleep(0.5)
        seconds = time.monotonic() - stopped
        vm.qmp('cont')
        watcher.wait(20, timeout=10)
        stall = watcher.longest_stall(start)
        self.detail(stopped=seconds, seen_stalled=stall.seconds,
                    blind=watcher.longest_blind(start))
        self.assertAlmostEqual(seconds, stall.seconds, delta=DELTA_S)

    def check_resize(self, vm: machine.Machine, watcher: write_watcher.Watcher,
                     name: str) -> None:
        vm.qmp('block_resize', **{'node-name': name, 'size': 96 * MIB})
        vm.wait(lambda: self.newest(watcher.path).disk_bytes == 96 * MIB,
                'sight of the new size', 5)

    def test_reboot_goes_on_with_the_ring(self) -> None:
        """pc, virtio-scsi: killed in the midst of writing, then booted."""
        path = self.disk('volume')
        watcher = self.watch(path)
        vm = self.boot('pc', 'scsi')
        vm.plug(path, SERIAL)
        watcher.wait(50, timeout=machine.BOOT_S)
        vm.close()
        vm = self.boot('pc', 'scsi')
        vm.plug(path, SERIAL)
        watcher.wait(50, timeout=machine.BOOT_S)
        vm.power_button(POWER_OFF_S)
        self.assertTrue(watcher.result().ok, str(watcher.result()))
        result = write_ring.verify(path)
        self.assertTrue(result.ok, str(result))
        self.assertEqual([SERIAL] * 2, [run.serial for run in result.runs])
        self.assertEqual(0, result.first)

    def test_errors_and_other_peoples_data(self) -> None:
        """Failed writes are written again; data of others is left alone."""
        vm = self.boot('q35', 'virtio')  # SCSI would retry by itself
        flaky, second, foreign = map(self.disk, ('a', 'b', 'c'))
        foreign.write_bytes(bytes(65536) + b'LABELONE' + bytes(MIB))
        before = foreign.read_bytes()
        fail = {'event': 'none', 'iotype': 'write', 'errno': 5, 'once': True}
        vm.plug(flaky, 'flaky', faults=[fail] * 2)
        watcher = self.watch(flaky)
        watcher.wait(50, timeout=machine.BOOT_S)
        vm.plug(foreign, 'foreign', port=2)
        vm.plug(second, 'second', port=3)
        vm.wait_text('serial second')
        vm.wait(lambda: write_ring.verify(second).records > 3,
                'slow writes', 5)
        result = watcher.result()
        self.assertTrue(result.ok, str(result))
        self.assertEqual(2, result.io_errors)
        self.assertEqual(100000, self.newest(second).interval_us)
        self.assertEqual(before, foreign.read_bytes())
        vm.power_button(POWER_OFF_S)

    def test_power_button_while_a_disk_hangs(self) -> None:
        """The sound disk's sequence ends cleanly, the other's is left."""
        vm = self.boot('q35', 'virtio')
        vm.wait_text('left alone')
        sound, hung = self.disk('sound'), self.disk('hung')
        vm.plug(sound, 'sound')
        vm.plug(hung, 'hung', port=2, group='hung')
        vm.wait_text('serial sound')
        vm.wait_text('serial hung')
        watcher = self.watch(hung)
        vm.hang('hung')
        vm.wait(lambda: watcher.longest_stall().seconds > 1, 'hang', 10)
        self.detail(power_off=vm.power_button(POWER_OFF_S))
        self.assertTrue(write_ring.verify(sound).runs[-1].stopped)
        kept = write_ring.verify(hung)
        self.assertTrue(kept.ok, str(kept))
        self.assertFalse(kept.runs[-1].stopped)
