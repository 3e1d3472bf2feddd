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
"""Attaching over two portals: the series, and os-brick's base release.

The hosts are user-mode Linux, which starts programs slowly: compare the
ratios. A row has seconds, or counts of calls.
"""

from collections.abc import Iterable
from collections.abc import Iterator
import concurrent.futures
import contextlib
import dataclasses
import statistics
import threading
from typing import Any
import uuid

import rich.console

from blockpath.bench import claims
from blockpath.cloud import hosts
from blockpath.console import report as reports
from blockpath.machine import errors
from blockpath import paths
from blockpath.testbed import testbed
from blockpath.testbed import volumes

RELEASE = '2026.2'
TREES = {'series': '', 'os-brick': str(paths.TREES / RELEASE / 'base' /
                                       'os-brick')}
#: How much longer than with both portals, beside one login, a volume may
#: take to attach when one of them is dead.
RATIO = 1.2
SIZE_MIB = 64
DATA_MIB = 1
VOLUMES = 4
#: At once, in the flapping cycles.
TESTBEDS = 3
#: A portal is dead, and alive again, for so many seconds in turn.
FLAP_S = 9.0
#: The base release waits for a dead portal for eight logins and more.
TIMEOUT_S = 400.0
#: The kinds of what may be left of a volume on a host.
LEFTOVERS = ('sessions', 'nodes', 'discovered', 'ifaces', 'disks', 'maps',
             'by-path')


def expected(rounds: int, cycles: int) -> list[str]:
    """Name the checks of a run with these options."""
    names = [f'one portal dead: at most {RATIO} times as long as with both, '
             f'and one login of {testbed.LOGIN_S} s',
             'both portals given: no discovery']
    if cycles:
        title = _title(cycles)
        names += [f'{cycles} times {VOLUMES} volumes: all testbeds lasted',
                  *(f'{title}: no {kind} left' for kind in LEFTOVERS),
                  f'{title}: no wrong bytes',
                  f'{title}: all attached and detached']
    return names


def _title(cycles: int) -> str:
    return f'{cycles} times {VOLUMES} volumes, a portal flapping'


def run(report: reports.Report, rounds: int, cycles: int) -> None:
    with _booted(report) as bench:
        rows = bench.portals(rounds) + bench.calls()
    if cycles:
        rows += _cycles(report, cycles)
    path = report.folder.with_suffix('.json')
    reports.write_rows(path, rows)
    rich.console.Console().print(claims.table(rows))
    report.say(f'{path} has the rows')


@contextlib.contextmanager
def _booted(report: reports.Report) -> Iterator['Bench']:
    with contextlib.ExitStack() as stack:
        with report.step('two hosts'):
            up = stack.enter_context(testbed.Testbed(
                {'storage': [volumes.STORAGE],
                 'initiator': [volumes.INITIATOR]}))
        yield Bench(report, up)


class Bench:
    """Attaches and detaches, and keeps what was measured."""

    def __init__(self, report: reports.Report, up: testbed.Testbed) -> None:
        self._report = report
        self._up = up
        self._addresses = up['storage'].addresses[:2]

    def _inside(self, function: str, *args: Any, **kwargs: Any) -> Any:
        return self._up['initiator'].call(
            f'{volumes.INITIATOR}:{function}', *args, timeout=TIMEOUT_S,
            **kwargs)

    def _outside(self, function: str, *args: Any) -> Any:
        return self._up['storage'].call(f'{volumes.STORAGE}:{function}',
                                        *args)

    @contextlib.contextmanager
    def _target(self, luns: int = 1) -> Iterator[str]:
        """A target at two portals; its IQN."""
        name = f'v{uuid.uuid4().hex[:12]}'
        initiator = self._up['initiator'].iqn
        iqn = self._outside('lio_target', name, SIZE_MIB,
                            self._addresses, initiator)
        for number in range(1, luns):
            self._outside('lio_lun', iqn, number, f'{name}-{number}',
                          SIZE_MIB)
        try:
            yield iqn
        finally:
            self._outside('lio_clear')

    @contextlib.contextmanager
    def _dead(self) -> Iterator[None]:
        self._outside('silence', self._addresses[1])
        try:
            yield
        finally:
            self._outside('answer')

    def portals(self, rounds: int) -> list[claims.Row]:
        """Both portals alive, and one dead; the tools take turns."""
        seconds: dict[tuple[str, str], list[float]] = {}
        with self._target() as iqn:
            data = volumes.data(self._addresses, iqn, 0)
            for number in range(rounds):
                for case, state in (('two portals', contextlib.nullcontext()),
                                    ('one of them dead', self._dead())):
                    with state, self._report.step(
                            f'{case}, {number + 1} of {rounds}'):
                        for tool in TREES:
                            seconds.setdefault((case, tool), []).append(
                                self._attach(data, tool))
        rows = [claims.row(case, tool, values, 's')
                for (case, tool), values in seconds.items()]
        alive, dead = (statistics.median(seconds[case, 'series'])
                       for case in ('two portals', 'one of them dead'))
        base = statistics.median(seconds['one of them dead', 'os-brick'])
        limit = RATIO * alive + testbed.LOGIN_S
        self._report.check(
            f'one portal dead: at most {RATIO} times as long as with both, '
            f'and one login of {testbed.LOGIN_S} s', dead <= limit,
            f'{dead:.1f} s, at most {limit:.1f} s; os-brick {base:.1f} s')
        return rows

    def _attach(self, data: dict[str, Any], tool: str) -> float:
        made = self._inside('connect', data, multipath=True, tree=TREES[tool])
        self._inside('disconnect', data, made, multipath=True)
        return made['seconds']

    def calls(self) -> list[claims.Row]:
        """Calls of open-iscsi's program while a volume is attached."""
        rows = []
        with self._target() as iqn, self._report.step('calls of iscsiadm'):
            for case, networks in (('both portals given', 2),
                                   ('one given', 1)):
                data = volumes.data(self._addresses[:networks], iqn, 0)
                for tool, tree in TREES.items():
                    began = len(self._inside('calls'))
                    made = self._inside('connect', data, multipath=True,
                                        tree=tree)
                    seen = [' '.join(call)
                            for call in self._inside('calls', began)]
                    self._inside('disconnect', data, made, multipath=True)
                    iscsiadm = [call for call in seen if 'iscsiadm' in call]
                    found = [call for call in iscsiadm
                             if 'sendtargets' in call]
                    rows += [claims.row(f'{case}: {what}', tool,
                                        [len(counted)], 'calls')
                             for what, counted in (('calls', iscsiadm),
                                                   ('discoveries', found))]
                    if (case, tool) == ('both portals given', 'series'):
                        self._report.check('both portals given: no discovery',
                                           not found, f'{len(found)}')
        return rows

    def cycles(self, done: 'Cycles', numbers: Iterator[int],
               count: int) -> None:
        """Volumes attached and detached while a portal flaps.

        :param done: takes the results
        :param numbers: of cycles to do, which other testbeds take from as well
        :param count: of all
        :raises LabError: a host does not answer
        """
        with self._target(VOLUMES) as iqn:
            described = [volumes.data(self._addresses, iqn, number)
                         for number in range(VOLUMES)]
            before = self._inside('leftovers')
            with self._flapping():
                for number in numbers:
                    with self._report.step(f'cycle {number + 1} of {count}'):
                        done.results.append(self._inside(
                            'cycle', described, number * VOLUMES, DATA_MIB))
            left = self._inside('leftovers')
        done.left = {name: set(left[name]) - set(before[name])
                     for name in left}

    @contextlib.contextmanager
    def _flapping(self) -> Iterator[None]:
        ended = threading.Event()

        def flap() -> None:
            # The cycles report a host that no longer answers.
            with contextlib.suppress(errors.LabError):
                while not ended.wait(FLAP_S):
                    with self._dead():
                        ended.wait(FLAP_S)

        thread = threading.Thread(target=flap)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@dataclasses.dataclass
class Cycles:
    """The results of one testbed's cycles, and the leftovers by kind."""

    results: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    left: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    #: Why the testbed was given up, if it was.
    broken: str = ''


def _cycles(report: reports.Report, count: int) -> list[claims.Row]:
    """Run them on several testbeds: most of the time is spent waiting."""
    numbers = _Shared(range(count))
    testbeds = min(TESTBEDS, count)
    hosts.check_room(testbed.HOSTS * testbeds)

    def some(_: int) -> Cycles:
        with _booted(report) as bench:
            done = Cycles()
            try:
                bench.cycles(done, numbers, count)
            except errors.LabError as error:
                # The other testbeds' findings are worth having all the same.
                done.broken = str(error)
            return done

    with concurrent.futures.ThreadPoolExecutor(TESTBEDS) as executor:
        done = list(executor.map(some, range(testbeds)))
    results = [result for each in done for result in each.results]
    broken = '; '.join(each.broken for each in done if each.broken)
    report.check(f'{count} times {VOLUMES} volumes: all testbeds lasted',
                 not broken and len(results) == count,
                 broken or f'{len(results)} of {count}')
    title = _title(count)
    for kind in next((each.left for each in done if each.left), {}):
        names = set.union(*(each.left[kind] for each in done if each.left))
        report.check(f'{title}: no {kind} left', not names,
                     ', '.join(sorted(names)) or 'none')
    wrong = sum(result['wrong'] for result in results)
    report.check(f'{title}: no wrong bytes', not wrong,
                 f'{wrong} of {len(results) * VOLUMES}')
    failed = [text for result in results for text in result['failed']]
    report.check(f'{title}: all attached and detached', not failed,
                 '; '.join(dict.fromkeys(failed))[:200] or 'all')
    return [claims.row(f'{action}, a portal flapping', 'series',
                 [seconds for result in results for seconds in result[action]],
                 's') for action in ('attach', 'detach')]


class _Shared(Iterator[int]):
    """Numbers that several threads take, each once."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = iter(numbers)
        self._lock = threading.Lock()

    def __next__(self) -> int:
        with self._lock:
            return next(self._numbers)
