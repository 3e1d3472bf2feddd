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
"""The copier under ten thousand schedules of faults.

Whatever short transfers, errors, ends, delays and kills come, in whatever
order operations end: if the copy says that it succeeded, every byte is in the
destination and was flushed; the source is as it was; both ends are closed.
"""

import contextlib
import random
import typing as ty
import unittest
from unittest import mock

import hypothesis
from hypothesis import strategies as st

from cinder.tests.unit.volume.copier import fakes
from cinder.volume.copier import engine
from cinder.volume.copier import volume_file

#: Small, so that many operations make little work.
GRAIN = 64

#: Kills twice, as a schedule's first error ends it and hides the rest.
FAULTS = ['short', 'end', 'long', 'nothing', 'ENOSPC', 'EIO', 'kill', 'kill']


class Schedule:
    """Says 'none' but for the operations that were drawn."""

    def __init__(self, faults: dict[int, str]) -> None:
        self._faults = faults
        self._count = 0

    def __call__(self, among: ty.Sequence[str]) -> str:
        self._count += 1
        fault = self._faults.get(self._count, 'none')
        return fault if fault in among else 'none'


@st.composite
def volumes(draw: ty.Any) -> tuple[bytes, list[volume_file.Extent]]:
    """What a volume holds, and what it says of it."""
    noise = random.Random(draw(st.integers(0, 1 << 30)))
    content, extents = b'', []
    for kind, length in draw(st.lists(st.tuples(
            st.sampled_from(['data', 'zeros', 'zero', 'hole']),
            st.integers(1, 700)), min_size=1, max_size=6)):
        told = {'zeros': 'data'}.get(kind, kind)
        extents.append(volume_file.Extent(len(content), length,
                                          volume_file.Kind(told)))
        content += (noise.randbytes(length) if kind == 'data' else
                    bytes(length))
    return content, extents


OPTIONS = st.fixed_dictionaries({
    'block': st.sampled_from([GRAIN, 100, 3 * GRAIN]),
    'in_flight': st.sampled_from([1, 3, 16]),
    'verify': st.sampled_from(list(engine.Verify)),
    'checkpoint_step': st.sampled_from([1, 300, 1 << 30]),
})

CASE = st.fixed_dictionaries({
    'volume': volumes(),
    'tell': st.booleans(),
    'zeroed': st.sampled_from(['known', 'told', 'no']),
    'delayed': st.tuples(st.booleans(), st.booleans()),
    'grow': st.integers(0, 100),
    'faults': st.tuples(*[st.dictionaries(
        st.integers(1, 60), st.sampled_from(FAULTS), max_size=4)] * 2),
    'options': OPTIONS,
})


class SchedulesTest(unittest.TestCase):

    succeeded = failed = killed = 0

    @classmethod
    def tearDownClass(cls) -> None:
        # A test of nothing but failures, or of none, would prove little.
        assert min(cls.succeeded, cls.failed, cls.killed) > 1000, (
            cls.succeeded, cls.failed, cls.killed)

    @hypothesis.settings(max_examples=10000, deadline=None, database=None,
                         suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(CASE)
    def test_success_is_never_wrong(self, case: dict[str, ty.Any]) -> None:
        with mock.patch.multiple(engine, _GRAIN=GRAIN,
                                 _ZERO_GRAIN=bytes(GRAIN)):
            self._run(case)

    def _run(self, case: dict[str, ty.Any]) -> None:
        content, extents = case['volume']
        length = len(content)
        read, write = map(Schedule, case['faults'])
        source = fakes.FaultyFile(
            content + b'beyond', read, delayed=case['delayed'][0],
            extents=extents + [volume_file.Extent(
                length, 6, volume_file.Kind.DATA)] if case['tell'] else None,
            in_flight=16)
        size = length + case['grow']
        durable = bytes(size) if case['zeroed'] != 'no' else b'\xee' * size
        known: bool | None = {'known': True, 'no': False}.get(case['zeroed'])
        zero = [volume_file.Extent(0, size, volume_file.Kind.HOLE)]
        start = 0
        while True:
            destination = fakes.FaultyFile(
                durable, write, delayed=case['delayed'][1], in_flight=16,
                extents=zero if known is None else None)
            checkpoints = [start]
            try:
                with _closed(destination):
                    engine.copy(source, destination, length, engine.Options(
                        start=start, destination_is_zero=known,
                        checkpoint=checkpoints.append, **case['options']))
            except fakes.Killed:
                type(self).killed += 1
                # What was not flushed may be there or not.
                durable = (destination.durable if len(durable) % 2 else
                           bytes(destination.content))
                start, known = checkpoints[-1], False
                continue
            except (engine.CopyError, OSError):
                type(self).failed += 1
            else:
                type(self).succeeded += 1
                self.assertEqual(content, destination.durable[:length])
            break
        self.assertEqual(content + b'beyond', bytes(source.content))
        self.assertEqual(1, destination.closes)
        self.assertEqual([], [entry for entry in source.log
                              if entry[0] != 'read'])


@contextlib.contextmanager
def _closed(file: fakes.FaultyFile) -> ty.Iterator[None]:
    """Close it, whatever a flush on the way says."""
    try:
        yield
    finally:
        try:
            file.close()
        except (OSError, fakes.Killed):
            pass
