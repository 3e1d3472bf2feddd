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
"""How fast volumes are copied: the series, a pristine Cinder, other tools.

Rates are in MiB of the volume's size a second, whatever of it was moved:
``mb_s``, as rados bench calls it.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import contextlib
import dataclasses
import fnmatch
import functools
import pathlib
import random
import statistics

import rich.box
import rich.console
import rich.table

from blockpath.bench import copy_claims
from blockpath.bench import copy_measure
from blockpath.bench import copy_plot
from blockpath.bench import copy_site
from blockpath.bench import copy_tools
from blockpath.bench import copy_volumes
from blockpath.cloud import session
from blockpath.console import report as reports
from blockpath import errors

DIRECTIONS = ('rbd-file', 'file-rbd', 'iscsi-rbd', 'rbd-iscsi', 'rbd-rbd')
#: Milliseconds that a message is delayed on average, where there is a delay.
#: What that makes of a small write is measured, and among the figures.
DELAY_MS = 2.0
#: Columns that the table takes.
_WIDTH = 110


@dataclasses.dataclass(frozen=True)
class Case:
    """What is copied where, in a network that is how slow."""

    direction: str
    fill: str
    delay_ms: float

    @property
    def name(self) -> str:
        """direction/fill/delay, as ``--only`` has it."""
        return f'{self.direction}/{self.fill}/{self.delay_ms:g}'


def cases(only: Sequence[str] = ()) -> list[Case]:
    """Those to run, all with one delay together.

    :param only: patterns of names; a case that matches any of them is run
    :raises BlockpathError: none matches
    """
    found = [Case(direction, fill, delay)
             for delay in (0.0, DELAY_MS) for fill in copy_site.FILLS
             for direction in DIRECTIONS
             # What is not moved is not delayed.
             if not delay or fill == 'random']
    patterns = [pattern if pattern.count('/') == 2 else f'{pattern}*'
                for pattern in only]
    chosen = [case for case in found
              if not only or any(fnmatch.fnmatchcase(case.name, pattern)
                                 for pattern in patterns)]
    if not chosen:
        raise errors.BlockpathError(
            'no case is so named; there are: '
            f'{", ".join(case.name for case in found)}')
    return chosen


def order(tools: Sequence[str], case: Case, number: int) -> list[str]:
    """Who comes after whom in a round, by chance, but the same in every run.

    Each finds what another has left: caches, and work that the OSD has put
    off. With turns alone it would always be the same other.
    """
    return random.Random(f'{case.name} {number}').sample(tools, len(tools))


def expected(chosen: Iterable[Case], tools: Sequence[str]) -> list[str]:
    """Name the checks of a run of these cases with these tools."""
    copies = [(case, tool) for case in chosen for tool in tools
              if copy_tools.can_copy(tool, case.direction)]
    return [*(_true_copy(case, tool) for case, tool in copies),
            *copy_claims.names((case.fill, case.direction, case.delay_ms,
                                tool) for case, tool in copies)]


def _true_copy(case: Case, tool: str) -> str:
    return f'{case.name}: {tool} made a true copy'


def perform(folder: pathlib.Path, size: int, rounds: int,
            only: Sequence[str], tools: Sequence[str]) -> None:
    """Measure, write the rows and a page, and print which claims hold.

    :param folder: of the page; the rows go next to it
    :param size: of each volume, bytes
    :raises BlockpathError: a claim does not hold
    """
    chosen = cases(only)
    copy_site.check_memory(size)
    session.conduct(functools.partial(run, size=size, rounds=rounds,
                                      chosen=chosen, tools=tools),
                    folder, expected(chosen, tools))


def run(report: reports.Report, size: int, rounds: int,
        chosen: Sequence[Case], tools: Sequence[str]) -> None:
    with contextlib.ExitStack() as stack:
        with report.step('Ceph and tgtd'):
            site = stack.enter_context(copy_site.site(size))
        for fill in dict.fromkeys(case.fill for case in chosen):
            with report.step(f'volumes of {size >> 20} MiB: '
                             f'{copy_site.FILLS[fill]}'):
                site.fill(fill)
        bench = Bench(report, site, tools)
        for number in range(rounds + 1):
            bench.round(number, rounds, chosen)
        rows = bench.rows()
    path = report.folder.with_suffix('.json')
    reports.write_rows(path, rows)
    # Wider than what a pipe is taken for.
    console = rich.console.Console()
    console.width = max(console.width, _WIDTH)
    console.print(table(rows))
    report.say(f'{path} has the rows')
    for claim in copy_claims.claims(rows):
        report.check(claim.name, claim.held, claim.figure)
    report.summary = (
        f'{len(tools)} tools copied the same volumes of {size >> 20} MiB in '
        f'turn, {rounds} times each. The plot has the median of their rates, '
        f'and the slowest and the fastest round.')
    report.plot = copy_plot.rates(rows)


class Bench:
    """Lets the tools take turns, and keeps what was measured."""

    def __init__(self, report: reports.Report, site: copy_site.Site,
                 tools: Sequence[str]) -> None:
        self._report = report
        self._site = site
        self._tools = tools
        self._runs: dict[tuple[Case, str], list[copy_claims.Run]] = {}
        #: what the trial showed: a tool does the same each time
        self._allocated: dict[tuple[Case, str], int] = {}
        self._source_allocated: dict[Case, int] = {}
        self._ceilings: dict[tuple[float, str], list[float]] = {}
        self._latencies: dict[float, list[float]] = {}
        self._skipped: set[tuple[str, str]] = set()

    def round(self, number: int, rounds: int,
              chosen: Sequence[Case]) -> None:
        """Every case by every tool, once.

        :param number: 0 is not timed: there it is seen whether the copies
            are true, and what they take of the storage
        """
        for delay in dict.fromkeys(case.delay_ms for case in chosen):
            with contextlib.ExitStack() as stack:
                if delay:
                    self._site.delay(delay)
                    stack.callback(self._site.delay, 0)
                title = f'round {number} of {rounds}' if number else 'trial'
                if number:
                    with self._report.step(f'{title}: rados bench'):
                        self._ceiling(delay)
                for case in chosen:
                    if case.delay_ms == delay:
                        with self._report.step(f'{title}: {case.name}'):
                            self._case(case, number)

    def _ceiling(self, delay: float) -> None:
        self._latencies.setdefault(delay, []).append(self._site.latency())
        for name, rate in self._site.ceiling().items():
            self._ceilings.setdefault((delay, name), []).append(rate)

    def _case(self, case: Case, number: int) -> None:
        for tool in order(self._tools, case, number):
            self._copy(case, tool, timed=bool(number))

    def _copy(self, case: Case, tool: str, timed: bool) -> None:
        site = self._site
        kind, _, to = case.direction.partition('-')
        source = site.source(kind, case.fill)
        command = copy_tools.command(tool, source, site.named(to), site.size)
        if command is None:
            self._skip(case, tool)
            return
        made = copy_tools.makes_destination(tool, site.named(to))
        before = 0 if timed else site.settled()
        with site.destination(to, made, thick=timed) as destination:
            taken = copy_measure.servers(site.pids())
            usage = copy_measure.run(*command)
            servers = taken()
            if not timed:
                self._examine(case, tool, source, destination, before)
                return
        self._runs.setdefault((case, tool), []).append(copy_claims.Run(
            usage.seconds, usage.cpu, servers['osd'], servers['target'],
            usage.memory, self._allocated[case, tool]))

    def _examine(self, case: Case, tool: str, source: copy_volumes.Volume,
                 destination: copy_volumes.Volume, before: int) -> None:
        site = self._site
        self._allocated[case, tool] = site.taken(destination, before)
        self._source_allocated[case] = site.source_allocated(source)
        self._report.check(_true_copy(case, tool),
                           site.same(case.fill, destination))

    def _skip(self, case: Case, tool: str) -> None:
        if (case.direction, tool) in self._skipped:
            return
        self._skipped.add((case.direction, tool))
        why = ('needs a SCSI device of the host for iSCSI'
               if tool == copy_tools.CINDER else 'does not know iSCSI')
        self._report.say(f'no {tool} in {case.direction}: it {why}')

    def rows(self) -> list[copy_claims.Row]:
        """What was measured, and beside it what the cluster can do."""
        for delay, latencies in self._latencies.items():
            median = statistics.median(latencies)
            self._report.figure(f'a small write, {delay:g} ms of delay',
                                round(median, 2), 'ms')
        return [*(copy_claims.ceiling_row(delay, name, rates)
                  for (delay, name), rates in self._ceilings.items()),
                *(copy_claims.row(case.fill, case.direction, case.delay_ms,
                                  tool, runs, self._source_allocated[case],
                                  self._site.size)
                  for (case, tool), runs in self._ordered())]

    def _ordered(self) -> Iterable[tuple[tuple[Case, str],
                                         list[copy_claims.Run]]]:
        """As the tools are named, not as one of them began."""
        return sorted(self._runs.items(), key=lambda item: (
            item[0][0].delay_ms, list(copy_site.FILLS).index(item[0][0].fill),
            DIRECTIONS.index(item[0][0].direction),
            copy_tools.TOOLS.index(item[0][1])))


def table(rows: Iterable[copy_claims.Row]) -> rich.table.Table:
    """The rows, for a terminal."""
    shown = rich.table.Table(box=rich.box.SIMPLE)
    for name in ('case', 'tool'):
        shown.add_column(name)
    for name in ('MiB/s', 'min-max', 'CPU s/GiB', 'OSD', 'tgtd', 'MiB RSS',
                 'MiB allocated'):
        shown.add_column(name, justify='right')
    before = None
    for row in rows:
        name = f'{row["direction"]} {row["case"]}' + (
            f' {row["delay_ms"]:g} ms' if row['delay_ms'] else '')
        if before not in (None, name):
            shown.add_section()
        shown.add_row(
            '' if name == before else name, row['tool'],
            f'{row["mb_s_median"]:.0f}',
            f'{row["mb_s_min"]:.0f}-{row["mb_s_max"]:.0f}',
            *(f'{row[key]:.{digits}f}' if key in row else ''
              for key, digits in (
                  ('cpu_s_per_gib', 2), ('osd_cpu_s_per_gib', 2),
                  ('target_cpu_s_per_gib', 2), ('peak_rss_mib', 0),
                  ('allocated_mib', 0))))
        before = name
    return shown
