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
"""What the rows of a copy benchmark are to show, and whether they do."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import statistics
from typing import Any

from blockpath.bench import copy_tools

#: How much faster than a pristine Cinder.
RANDOM_RATIO = 1.5
DELAYED_RATIO = 2.5
ZEROS_RATIO = 2.4
TENTH_RATIOS = {'file-rbd': 8.0, 'rbd-file': 3.0}
#: As fast as the fastest other tool.
PEER_RATIO = 1.0
ALLOCATION_RATIO = 1.05
CPU_RATIO = 1.1
#: MiB over idle.
MEMORY = 128

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Claim:
    name: str
    held: bool
    figure: str


def row(case: str, direction: str, delay_ms: float, tool: str,
        runs: Sequence['Run'], source_allocated: int, size: int) -> Row:
    """One line of the table, of the runs of one tool.

    :param size: of the volume, in bytes
    """
    rates = [size / (1 << 20) / run.seconds for run in runs]
    gib = size / (1 << 30)

    def median(values: Iterable[float], digits: int = 3) -> float:
        return round(statistics.median(values), digits)

    return {
        'case': case, 'direction': direction, 'delay_ms': delay_ms,
        'tool': tool, 'runs': len(runs),
        'mb_s_median': median(rates, 1), 'mb_s_min': round(min(rates), 1),
        'mb_s_max': round(max(rates), 1),
        'mb_s': [round(rate, 1) for rate in rates],
        'cpu_s_per_gib': median(run.cpu / gib for run in runs),
        'osd_cpu_s_per_gib': median(run.osd_cpu / gib for run in runs),
        'target_cpu_s_per_gib': median(run.target_cpu / gib for run in runs),
        'peak_rss_mib': round(max(run.memory for run in runs) / (1 << 20), 1),
        'allocated_mib': round(max(run.allocated for run in runs) /
                               (1 << 20), 1),
        'source_allocated_mib': round(source_allocated / (1 << 20), 1)}


@dataclasses.dataclass(frozen=True)
class Run:
    """One copy; seconds and bytes."""

    seconds: float
    cpu: float
    osd_cpu: float
    target_cpu: float
    memory: int
    allocated: int


def ceiling_row(delay_ms: float, case: str, rates: Sequence[float]) -> Row:
    """What the cluster itself reads or writes, as a row."""
    return {'case': case, 'direction': 'ceiling', 'delay_ms': delay_ms,
            'tool': 'rados bench', 'runs': len(rates),
            'mb_s_median': round(statistics.median(rates), 1),
            'mb_s_min': round(min(rates), 1),
            'mb_s_max': round(max(rates), 1),
            'mb_s': [round(rate, 1) for rate in rates]}


def ceiling(rows: Sequence[Row], direction: str, delay_ms: float
            ) -> float | None:
    """How fast a copy could be if only the cluster took time, MiB/s."""
    source, _, destination = direction.partition('-')
    passes = ([] if source != 'rbd' else ['read']) + (
        [] if destination != 'rbd' else ['write'])
    rates = [r['mb_s_median'] for r in rows
             if r['direction'] == 'ceiling' and r['case'] in passes and
             r['delay_ms'] == delay_ms]
    if not rates or len(rates) != len(passes):
        return None
    # A read and a write of each byte share one cluster.
    return 1 / sum(1 / rate for rate in rates)


class _Case:
    """The rows of one case in one direction."""

    def __init__(self, rows: Sequence[Row], series: Row) -> None:
        self._rows = rows
        self.series = series
        self.tools = {
            r['tool']: r for r in rows
            if all(r[key] == series[key]
                   for key in ('case', 'direction', 'delay_ms'))}
        self.title = f'{series["direction"]} {series["case"]}' + (
            f' with {series["delay_ms"]:g} ms of delay'
            if series['delay_ms'] else '')

    def _best(self, key: str, best: Any) -> Row | None:
        peers = [self.tools[tool] for tool in copy_tools.PEERS
                 if tool in self.tools]
        return best(peers, key=lambda r: r[key]) if peers else None

    def cinder(self) -> Iterator[Claim]:
        """Against a pristine Cinder."""
        cinder = self.tools.get(copy_tools.CINDER)
        limit = self._limit()
        if not cinder or not limit:
            return
        ratio = self.series['mb_s_median'] / cinder['mb_s_median']
        yield Claim(
            f'{self.title}: at least {limit:g} times as fast as Cinder',
            ratio >= limit, f'{_rate(self.series)} / {_rate(cinder)} MiB/s = '
                            f'{ratio:.2f}')

    def _limit(self) -> float | None:
        case = self.series['case']
        if case == 'random':
            return DELAYED_RATIO if self.series['delay_ms'] else RANDOM_RATIO
        if self.series['delay_ms']:
            return None
        if case == 'zeros':
            return ZEROS_RATIO
        return TENTH_RATIOS.get(self.series['direction'])

    def peers(self) -> Iterator[Claim]:
        """Against the fastest of the other tools, round by round."""
        best = self._best('mb_s_median', max)
        if not best or self.series['case'] != 'random' or \
                self.series['delay_ms']:
            return
        ratios = sorted(ours / theirs for ours, theirs in
                        zip(self.series['mb_s'], best['mb_s']))
        # What lies in the middle half of the rounds is noise.
        quarter = len(ratios) // 4
        middle = ratios[quarter:len(ratios) - quarter]
        ratio = statistics.median(ratios)
        figure = (f'{_rate(self.series)} / {_rate(best)} MiB/s with '
                  f'{best["tool"]}; round by round {ratio:.2f}, '
                  f'{ratios[0]:.2f} to {ratios[-1]:.2f}')
        top = ceiling(self._rows, self.series['direction'],
                      self.series['delay_ms'])
        if top:
            share = self.series['mb_s_median'] / top
            figure += f'; {share:.2f} of rados bench\'s {top:.0f}'
        yield Claim(f'{self.title}: not clearly slower than the fastest '
                    'other tool', middle[-1] >= PEER_RATIO, figure)

    def processors(self) -> Iterator[Claim]:
        best = self._best('cpu_s_per_gib', min)
        if not best or self.series['delay_ms']:
            return
        ours, theirs = (r['cpu_s_per_gib'] for r in (self.series, best))
        yield Claim(
            f'{self.title}: processors\' time at most {CPU_RATIO:g} times '
            f'the time of the most frugal other tool',
            ours <= CPU_RATIO * theirs,
            f'{ours:.2f} / {theirs:.2f} s/GiB with {best["tool"]}' +
            (f' = {ours / theirs:.2f}' if theirs else ''))

    def allocation(self) -> Iterator[Claim]:
        if self.series['case'] != 'tenth':
            return
        ours, source = (self.series[key] for key in
                        ('allocated_mib', 'source_allocated_mib'))
        yield Claim(
            f'{self.title}: at most {ALLOCATION_RATIO:g} times what the '
            f'source allocates', ours <= ALLOCATION_RATIO * source,
            f'{ours:.0f} / {source:.0f} MiB')


def _rate(row: Row) -> str:
    return (f'{row["mb_s_median"]:.0f} '
            f'({row["mb_s_min"]:.0f}-{row["mb_s_max"]:.0f})')


def names(measured: Iterable[tuple[str, str, float, str]]) -> list[str]:
    """Name the claims that rows will be held against, before there are any.

    :param measured: case, direction, delay in ms and tool of each row
    """
    some = Run(1.0, 1.0, 1.0, 1.0, 1, 1)
    return [claim.name for claim in claims([
        row(case, direction, delay_ms, tool, [some], 1, 1 << 20)
        for case, direction, delay_ms, tool in measured])]


def claims(rows: Sequence[Row]) -> list[Claim]:
    """All that can be said of these rows."""
    cases = [_Case(rows, row) for row in rows
             if row['tool'] == copy_tools.SERIES]
    found = [claim for part in (_Case.cinder, _Case.peers, _Case.allocation,
                                _Case.processors)
             for case in cases for claim in part(case)]
    if cases:
        worst = max((case.series for case in cases),
                    key=lambda row: row['peak_rss_mib'])
        found.append(Claim(
            f'memory over idle: at most {MEMORY} MiB at the peak',
            worst['peak_rss_mib'] <= MEMORY,
            f'{worst["peak_rss_mib"]:.0f} MiB ({worst["direction"]} '
            f'{worst["case"]})'))
    return found
