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
"""What is written to a volume, and what is made of rbd's answers.

tests/ceph writes and reads real images.
"""

from collections.abc import Iterator
import contextlib
import io
import itertools
import json
import pathlib
import types

from blockpath.daemons import ceph
from blockpath.machine import errors
from blockpath.observe import volume_content
from tests.unit import lab_base

SIZE = 1 << 30


def volume(host: str, migration_id: str | None = None) -> object:
    return types.SimpleNamespace(id='one', name='one', host=host, size=1,
                                 migration_id=migration_id)


class TestPattern(lab_base.LabTest):

    def test_extents_are_in_order_and_inside(self) -> None:
        extents = list(volume_content.pattern(SIZE, mib=2))
        for (offset, data), (following, _) in itertools.pairwise(extents):
            self.assertLessEqual(offset + len(data), following)
        offset, data = extents[-1]
        self.assertEqual(SIZE, offset + len(data))

    def test_same_again_and_different_with_another_seed(self) -> None:
        first = list(volume_content.pattern(SIZE, mib=1))
        self.assertEqual(first, list(volume_content.pattern(SIZE, mib=1)))
        self.assertNotEqual(first,
                            list(volume_content.pattern(SIZE, 1, seed=1)))

    def test_spread_over_the_volume(self) -> None:
        extents = [(offset, data) for offset, data
                   in volume_content.pattern(SIZE, mib=250, every=4)
                   if len(data) == 1 << 20 and any(data)]
        self.assertEqual(250, len(extents))
        for (offset, _), (following, _) in itertools.pairwise(extents):
            self.assertEqual(4 << 20, following - offset)
        self.assertLess(extents[0][0], 16 << 20)

    def test_too_much_for_the_volume(self) -> None:
        for arguments in ((257,), (250, 0, 5)):
            self.assertRaises(ValueError, list,
                              volume_content.pattern(SIZE, *arguments))

    def test_filled_parts(self) -> None:
        extents = [(0, b'x'), (100, bytes(50)), (2047, b'xy'),
                   (4096 + 512, b'x' * 512)]
        # Chunks of 1024 bytes are allocated whole.
        self.assertEqual({0, 1, 2, 4},
                         set(volume_content.fill(extents, 64, 1024)))
        # An object of 4096 bytes ends with its last unit.
        for unit, sizes in ((64, (2112, 1024)), (2048, (4096, 2048))):
            self.assertEqual(dict(enumerate(sizes)),
                             volume_content.fill(extents, unit, 4096))
        # Units may be larger than the parts.
        self.assertEqual({0, 1, 2, 3, 4, 5},
                         set(volume_content.fill(extents, 2048, 1024)))

    def test_diff(self) -> None:
        out = io.BytesIO()
        volume_content.write_diff([(1, b'ab'), (258, b'c')], 512, out)
        self.assertEqual(
            b'rbd diff v1\ns\0\2\0\0\0\0\0\0'
            b'w\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0ab'
            b'w\2\1\0\0\0\0\0\0\1\0\0\0\0\0\0\0ce', out.getvalue())


class ShortCluster:
    """``rbd export`` ends early, and with exit code 0."""

    @contextlib.contextmanager
    def piped(self, *arguments: str) -> Iterator[io.BytesIO]:
        yield io.BytesIO(b'all that there is')


class LocalStorage:
    """The storage host: its device is a file here.

    :ivar device: of each volume
    """

    def __init__(self, device: pathlib.Path) -> None:
        self.device = device

    def command(self, argv: list[str]) -> list[str]:
        # A file system may not have O_DIRECT.
        return [f'if={self.device}' if word.startswith('if=') else word
                for word in argv if word != 'iflag=direct']


class TestDigest(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.device = self.folder / 'device'
        self.holdings = volume_content.Holdings(
            self.site, ShortCluster(),  # type: ignore[arg-type]
            LocalStorage(self.device), '')  # type: ignore[arg-type]

    def assert_too_short(self, moved: object) -> None:
        error = self.assertRaises(errors.LabError, self.holdings.sha256,
                                  moved)
        self.assertEqual('volume one has 17 bytes, not 1 GiB', str(error))

    def test_export_that_is_too_short(self) -> None:
        self.assert_too_short(volume('storage@rbd#rbd'))

    def test_device_that_is_too_short(self) -> None:
        self.device.write_bytes(b'all that there is')
        self.assert_too_short(volume('storage@lvm#lvm'))

    def test_device_that_cannot_be_read(self) -> None:
        error = self.assertRaises(errors.LabError, self.holdings.sha256,
                                  volume('storage@lvm#lvm'))
        self.assertEqual('volume one cannot be read', str(error))

    def test_all_is_digested(self) -> None:
        with open(self.device, 'wb') as file:
            file.truncate(SIZE)
        # Of a GiB of zeros.
        self.assertEqual('49bc20df15e412a64472421e13fe86ff'
                         '1c5165e18b2afccf160d4dc19fe68a14',
                         self.holdings.sha256(volume('storage@lvm#lvm')))


class FakeStorage:
    """Answers as lvs and dmsetup do."""

    said = {'/dev/lvm/volume-one': '0 2097152 thin 256 2097151\n',
            'lvm': '  131072\n'}

    def read(self, *argv: str) -> str:
        return self.said[argv[-1]]


class TestPlaces(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.holdings = volume_content.Holdings(
            self.site, ceph.Cluster(self.site.ceph, port=5000),
            FakeStorage(), '')  # type: ignore[arg-type]

    def test_backend(self) -> None:
        self.assertEqual('rbd2', volume_content.backend(
            volume('storage@rbd2#rbd2')))
        for host in ('storage', 'storage@files#files', None):
            error = self.assertRaises(errors.LabError, volume_content.backend,
                                      volume(host))  # type: ignore[arg-type]
            self.assertIn('on no backend', str(error))

    def test_a_migrated_volume_keeps_its_new_name(self) -> None:
        moved = volume('storage@rbd#rbd', migration_id='two')
        self.assertEqual('volumes/volume-two', self.holdings.image(moved))
        self.assertEqual('/dev/lvm/volume-two', self.holdings.device(
            volume('storage@lvm#lvm', migration_id='two')))

    def test_allocation(self) -> None:
        for exists, missing in (('true', 'false'), (True, False)):
            self.assertEqual(5, volume_content.allocation(json.dumps([
                {'offset': 0, 'length': 2, 'exists': exists},
                {'offset': 2, 'length': 9, 'exists': missing},
                {'offset': 11, 'length': 3, 'exists': exists}])))


class TestRoom(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.holdings = volume_content.Holdings(
            self.site, ceph.Cluster(self.site.ceph, port=5000),
            FakeStorage(), '')  # type: ignore[arg-type]

    def room(self, backend: str, unit: int, every: int) -> float:
        """Return MiB that a copy of 64 MiB may take."""
        return self.holdings.room(
            volume(f'storage@{backend}#{backend}'),
            volume_content.pattern(SIZE, 64, every=every), unit) / (1 << 20)

    def test_allocated(self) -> None:
        self.assertEqual(256 * 512, self.holdings.allocated(
            volume('storage@lvm#lvm')))

    def test_whole_chunks_of_lvm(self) -> None:
        # Chunks of 128 KiB: the first, two at 4 MiB, one for the bytes that
        # the data is out of line, and the last.
        self.assertEqual(64 + 5 / 8, self.room('lvm', 64 << 10, every=1))
        self.assertEqual(64 * 9 / 8 + 4 / 8,
                         self.room('lvm', 64 << 10, every=2))
        # A block of 1 MiB is written if any of its bytes is.
        self.assertEqual(64 + 5, self.room('lvm', 1 << 20, every=1))

    def test_objects_of_ceph_end_with_their_last_unit(self) -> None:
        # The first and the last object, and the beginning of the second.
        self.assertEqual(64 + 4 + 4 + 2 / 16,
                         self.room('rbd', 64 << 10, every=1))
        self.assertEqual(64 * 17 / 16 + 4 + 4 + 1 / 16,
                         self.room('rbd', 64 << 10, every=4))

    def test_whole_objects_of_ceph(self) -> None:
        # The first two objects and the last, and one for the bytes that the
        # data is out of line.
        self.assertEqual(64 + 4 * 4, self.room(
            'rbd', volume_content.OBJECT, every=1))
