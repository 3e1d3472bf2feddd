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
"""What the plots of a guest's writes show."""

import array

from blockpath.observe import plots
from blockpath.observe import write_watcher
from tests.unit import lab_base
from tests.unit.observe import fake_writer

#: The begin of all that is plotted, in seconds of ``time.monotonic()``.
BEGIN = 1000.0


class PlotTest(lab_base.LabTest):

    def watcher(self, *stalls: float, seconds: float = 10.0
                ) -> write_watcher.Watcher:
        """It saw a record each 10 ms, and half a second without from each.

        :param stalls: seconds since the begin
        """
        path = self.folder / 'ring'
        fake_writer.FakeWriter(path)
        watcher = write_watcher.Watcher(path)
        self.addCleanup(watcher._ring.close)
        watcher._follower.started = BEGIN
        watcher._follower.times = array.array('d', (
            BEGIN + number / 100 for number in range(int(seconds * 100))
            if not any(stall < number / 100 < stall + 0.5
                       for stall in stalls)))
        return watcher

    def spans(self, count: int) -> list[plots.Span]:
        return [(f'move {number}', BEGIN + number, BEGIN + number + 0.9)
                for number in range(count)]

    def test_rates(self) -> None:
        times = [7.0, 7.1, 7.24, 7.25, 8.2, 8.3]
        self.assertEqual(
            ([7.0, 7.25, 7.5, 7.75, 8.0, 8.25],
             [12.0, 4.0, 0.0, 0.0, 4.0]), plots.rates(times, 7.0, 8.3))

    def test_rate_names_each_move_and_its_stall(self) -> None:
        svg = plots.rate(self.watcher(2.2), self.spans(5), rest=0.012)
        for title, stall in (('move 1', 10), ('move 2', 500)):
            self.assertIn(f'<!-- {title}: {stall} ms -->\n', svg)
        self.assertIn('with its longest stall, which is 12 ms at rest -->',
                      svg)
        self.assertIn('<!-- writes per second -->', svg)

    def test_rate_goes_on_where_the_guest_has_stopped(self) -> None:
        hung = self.watcher(seconds=3.0)
        svg = plots.rate(hung, [('hangs', BEGIN + 2, BEGIN + 122)], 0.01)
        self.assertIn('<!-- hangs: 119 s -->', svg)
        # A tick of the axis.
        self.assertIn('<!-- 120 -->', svg)

    def test_rate_of_a_guest_that_never_wrote(self) -> None:
        svg = plots.rate(self.watcher(seconds=0),
                         [('boots', BEGIN, BEGIN + 60)], 0.0)
        self.assertIn('<!-- boots: 60 s -->', svg)

    def test_moves_have_a_frame_each_and_no_other(self) -> None:
        for count in (1, 2, 7):
            svg = plots.moves(self.watcher(2.2), self.spans(count))
            self.assertEqual(2 * count, svg.count('id="matplotlib.axis'))
            self.assertIn(f'<!-- move {count - 1}: ', svg)
        self.assertIn('<!-- move 2: 500 ms at most -->', svg)
