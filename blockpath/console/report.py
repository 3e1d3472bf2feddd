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
"""What a run found out: checks, figures, plots; as a table, JSON and HTML.

``report.json`` holds::

    {"ended": "passed" | "failed" | "broken off",
     "error": the message of what broke it off, or null,
     "step": the step that this happened in, or null,
     "date": of the end, "seconds": since the begin,
     "expected": how many checks were listed beforehand,
     "missing": [names of those that were not made],
     "unexpected": [names of others, or of those that were made again],
     "summary": two sentences, or nothing,
     "acts": [{"name", "passed", "figure"}],
     "checks": [{"name", "passed", "figure"}],
     "figures": {name: {"value", "unit"}},
     "machine": {…}, "versions": {…}}

A measurement's rows are ``{"machine", "versions", "rows": […]}``.
"""

import collections
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import difflib
import functools
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import subprocess
import time
from typing import Any

import jinja2
import matplotlib.figure
import rich.box
import rich.markup
import rich.table

from blockpath.console import progress
from blockpath import errors

_PAGE = jinja2.Environment(
    loader=jinja2.PackageLoader('blockpath.console'), autoescape=True,
    trim_blocks=True, lstrip_blocks=True)

_PACKAGES = ('nova', 'cinder', 'os-brick', 'neutron', 'keystone', 'glance',
             'libvirt-python')
_PROGRAMS = {'libvirtd': ('libvirtd', '--version'),
             'qemu': ('qemu-system-x86_64', '--version'),
             'tgtd': ('tgtd', '--version')}


@functools.cache
def machine() -> dict[str, Any]:
    """Return the facts of this machine that figures of time depend on."""
    model = platform.processor() or 'unknown'
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            model = line.partition(':')[2].strip()
            break
    pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return {'cpu': model, 'cores': len(os.sched_getaffinity(0)),
            'memory_gib': round(pages / (1 << 30), 1),
            'kernel': platform.release()}


@functools.cache
def versions() -> dict[str, str]:
    """Of the packages and programs that take part; absent ones left out."""
    found = {'python': platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for name, command in _PROGRAMS.items():
        try:
            said = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            continue
        if said.stdout:
            found[name] = said.stdout.splitlines()[0].strip()
    return found


@dataclasses.dataclass(frozen=True)
class Check:
    """An expectation and its outcome."""

    name: str
    passed: bool
    figure: str = ''


@dataclasses.dataclass(frozen=True)
class Figure:
    """A measurement; ``unit`` is empty for a ratio."""

    value: float
    unit: str

    def __str__(self) -> str:
        return f'{self.value:,} {self.unit}'.rstrip()


@dataclasses.dataclass(frozen=True)
class Tally:
    """Checks, compared with the names listed beforehand."""

    expected: Sequence[str]
    checks: Sequence[Check]

    @property
    def failed(self) -> list[str]:
        """Names of the checks that did not pass."""
        return [check.name for check in self.checks if not check.passed]

    @property
    def missing(self) -> list[str]:
        """Names that were listed and not checked."""
        made = {check.name for check in self.checks}
        return [name for name in self.expected if name not in made]

    @property
    def unexpected(self) -> list[str]:
        """Names that were checked more often than they were listed."""
        made = collections.Counter(check.name for check in self.checks)
        return list(made - collections.Counter(self.expected))

    @property
    def passed(self) -> bool:
        """Just what was listed was checked, something was, and all passed."""
        return bool(self.checks) and not (
            self.failed or self.missing or self.unexpected)

    def __str__(self) -> str:
        wrong = {*self.failed, *self.missing}
        count = sum(name not in wrong for name in self.expected)
        return f'{count} of {len(self.expected)} expected checks passed'


@dataclasses.dataclass(frozen=True)
class Act:
    """A part of a run, with its checks and how long it took.

    :ivar error: the message of what broke it off; empty: it came to its end
    """

    title: str
    tally: Tally
    seconds: float
    error: str = ''

    def check(self) -> Check:
        """Return, as one check, whether all went as listed."""
        figure = f'{self.tally}, {self.seconds:.0f} s'
        if self.error:
            figure = f'broken off: {self.error}; {figure}'
        return Check(self.title, self.tally.passed and not self.error, figure)


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page; plots are SVG."""

    title: str
    text: str = ''
    plots: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Diff:
    """How a text has changed.

    :ivar lines: of each ``-``, ``+`` or a space, and its text
    """

    title: str
    lines: Sequence[tuple[str, str]]

    def __str__(self) -> str:
        removed, added = (sum(mark == sign for mark, _ in self.lines)
                          for sign in '-+')
        return f'lines removed: {removed}, added: {added}'


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that it followed."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _message(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return 'interrupted'
    if isinstance(error, errors.BlockpathError):
        return error.message
    return f'{type(error).__name__}: {error}'


@dataclasses.dataclass(frozen=True)
class Break:
    """A step that an exception ended."""

    step: str
    seconds: float
    error: BaseException


class Report:
    """What a run finds, as it goes and as files afterwards.

    It counts as broken off until :meth:`finish` is called, so that a run
    that is killed leaves no other verdict.

    :param output: shows progress
    :param folder: for the report, and whatever else the run writes
    :param expected: names of the checks that the run must make, each once
    :ivar error: the message of what broke it off; None: it came to its end
    :ivar broken: the step that this happened in, if there was one
    :ivar evidence: files and folders to look at after a failure
    :ivar summary: two sentences about what was shown, for the top of the page
    :ivar plot: SVG, below the summary
    :ivar versions: of the packages and programs that take part
    :raises ValueError: a name is listed twice
    """

    def __init__(self, output: progress.Display, folder: pathlib.Path,
                 expected: Sequence[str]) -> None:
        twice = collections.Counter(expected) - collections.Counter(
            set(expected))
        if twice:
            raise ValueError(f'listed twice: {", ".join(twice)}')
        self.output = output
        self.folder = folder
        self.versions = dict(versions())
        self.expected = tuple(expected)
        self.error: str | None = 'it still runs, or it was killed'
        self.broken: Break | None = None
        self.evidence: list[pathlib.Path] = []
        self.summary = ''
        self.plot = ''
        self._breaks: list[Break] = []
        self._began = time.monotonic()
        self._seconds: float | None = None
        self.checks: list[Check] = []
        self.acts: list[Act] = []
        self.figures: dict[str, Figure] = {}
        self.sections: list[Section] = []
        self.diffs: list[Diff] = []

    def say(self, text: str) -> None:
        self.output.say(text)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show that something is being done, how it ends, and when."""
        began = time.monotonic()
        self.output.started(name)
        try:
            yield
        except BaseException as error:
            seconds = time.monotonic() - began
            # The innermost of several steps comes first.
            self._breaks.append(Break(name, seconds, error))
            self.output.failed(name, seconds)
            raise
        self.output.done(name, time.monotonic() - began)

    @contextlib.contextmanager
    def act(self, title: str, expected: Sequence[str]) -> Iterator[None]:
        """Take what is checked in this block together.

        :param expected: names of the checks that the block must make
        """
        began, first = time.monotonic(), len(self.checks)
        self.say(title)

        def end(error: str = '') -> None:
            self.acts.append(Act(
                title, Tally(expected, tuple(self.checks[first:])),
                time.monotonic() - began, error))

        try:
            yield
        except BaseException as error:
            end(_message(error))
            raise
        end()

    def check(self, name: str, passed: object, figure: str = '') -> bool:
        """Note whether something is as it must be.

        :param name: one of those listed beforehand
        :param passed: anything; only its truth counts
        :param figure: the observed value, for people
        """
        check = Check(name, bool(passed), figure)
        self.checks.append(check)
        self.say(f'{"ok" if check.passed else "FAILED"}: {name}'
                 f'{f" ({figure})" if figure else ""}')
        return check.passed

    def finish(self) -> None:
        """Note that the run came to its end."""
        self._seconds = self.seconds
        self.error = None

    def break_off(self, error: BaseException) -> None:
        """Note that an exception ended the run.

        When a clean-up failed as well, the step that failed first is named,
        and both messages are kept.
        """
        self._seconds = self.seconds
        self.error = _message(error)
        chain = list(_chain(error))
        for each in self._breaks:
            if each.error in chain:
                self.broken = each
                break
        # An error that was raised again in other words is the same one.
        if self.broken and self.broken.error not in (error, error.__cause__):
            self.error = f'{_message(self.broken.error)}; then: {self.error}'

    @property
    def seconds(self) -> float:
        """How long the run took, or has taken until now."""
        if self._seconds is None:
            return time.monotonic() - self._began
        return self._seconds

    @property
    def tally(self) -> Tally:
        return Tally(self.expected, self.checks)

    @property
    def ended(self) -> str:
        """The verdict: ``passed``, ``failed`` or ``broken off``."""
        if self.error is not None:
            return 'broken off'
        return 'passed' if self.tally.passed else 'failed'

    @property
    def headline(self) -> str:
        """The verdict in one line."""
        if self.ended == 'passed':
            return 'PASSED'
        if self.broken:
            return (f'FAILED: broken off in step {self.broken.step!r} after '
                    f'{self.broken.seconds:.0f} s: {self.error}')
        if self.error is not None:
            return (f'FAILED: broken off after {self.seconds:.0f} s: '
                    f'{self.error}')
        tally = self.tally
        counts = ((len(tally.failed), 'failed'),
                  (len(tally.missing), 'not made'),
                  (len(tally.unexpected), 'not expected'))
        return 'FAILED: ' + (', '.join(
            f'{number} check{"s" if number > 1 else ""} {what}'
            for number, what in counts if number) or 'nothing was checked')

    @property
    def problems(self) -> list[str]:
        """The checks that speak against the run, a line each.

        Of a run that was broken off, those that it did not come to are left
        out.
        """
        tally = self.tally
        missing = tally.missing if self.error is None else ()
        return [*(f'failed: {name}' for name in tally.failed),
                *(f'not made: {name}' for name in missing),
                *(f'not expected: {name}' for name in tally.unexpected)]

    @property
    def page(self) -> pathlib.Path:
        return self.folder / 'report.html'

    def outcome(self) -> str:
        """The verdict, and where to look, in several lines."""
        lines = [f'{self.headline}; {self.tally}']
        if self.ended != 'passed':
            lines += [*self.problems,
                      *(f'log: {path}' for path in self.evidence)]
        return '\n'.join([*lines, f'page: {self.page.absolute().as_uri()}'])

    def figure(self, name: str, value: float, unit: str) -> None:
        """Note a measurement.

        :param name: for people: what was measured, and of what
        :param value: rounded as the page must show it
        :param unit: as ``ms``; empty for a ratio
        """
        self.figures[name] = Figure(value, unit)

    def section(self, title: str, text: str = '',
                plots: Sequence[str] = ()) -> None:
        """Add to the page, below the checks."""
        self.sections.append(Section(title, text, plots))

    def diff(self, title: str, before: str, after: str) -> None:
        """Add to the page, line by line, how a text has changed."""
        self.diffs.append(Diff(title, [
            (line[0], line[2:]) for line in difflib.ndiff(
                before.splitlines(), after.splitlines()) if line[0] != '?']))

    def groups(self) -> list[Act]:
        """The acts, and as another what belongs to none of them."""
        played = {id(check) for act in self.acts for check in act.tally.checks}
        listed = {name for act in self.acts for name in act.tally.expected}
        rest = Tally([name for name in self.expected if name not in listed],
                     [check for check in self.checks
                      if id(check) not in played])
        if not rest.expected and not rest.checks:
            return self.acts
        return [*self.acts, Act('further checks' if self.acts else
                                'all checks', rest, self.seconds,
                                self.error or '')]

    def write(self) -> None:
        """Write ``report.json`` and the page, whatever the verdict."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tally = self.tally
        data = {'ended': self.ended, 'error': self.error,
                'step': self.broken.step if self.broken else None,
                'date': time.strftime('%Y-%m-%d %H:%M'),
                'seconds': round(self.seconds, 1), 'summary': self.summary,
                'expected': len(self.expected), 'missing': tally.missing,
                'unexpected': tally.unexpected,
                'acts': [dataclasses.asdict(act.check())
                         for act in self.acts],
                'checks': [dataclasses.asdict(check)
                           for check in self.checks],
                'figures': {name: dataclasses.asdict(figure)
                            for name, figure in self.figures.items()},
                'machine': machine(), 'versions': self.versions}
        (self.folder / 'report.json').write_text(
            json.dumps(data, indent=1, default=str) + '\n')
        self.page.write_text(_PAGE.get_template('report.html.j2').render(
            name=self.folder.name, report=self, **data))

    def table(self) -> rich.table.Table:
        """The checks and the verdict; of acts only a line each.

        Of a run that was broken off, the checks that it did not come to are
        left out.
        """
        table = rich.table.Table('', 'check', 'seen', box=rich.box.SIMPLE)

        def add(check: Check, right: str = 'ok', wrong: str = 'FAILED'
                ) -> None:
            table.add_row(f'[green]{right}[/]' if check.passed else
                          f'[red]{wrong}[/]', rich.markup.escape(check.name),
                          rich.markup.escape(check.figure))

        played = {id(check) for act in self.acts for check in act.tally.checks}
        for check in [*(act.check() for act in self.acts),
                      *(check for check in self.checks
                        if not check.passed or id(check) not in played)]:
            add(check)
        if self.error is None:
            for name in self.tally.missing:
                add(Check(name, False), wrong='NOT MADE')
        for name in self.tally.unexpected:
            add(Check(name, False), wrong='NOT EXPECTED')
        table.add_section()
        add(Check(self.headline.partition(': ')[2], self.ended == 'passed',
                  str(self.tally)), right='PASSED')
        return table


def svg(figure: matplotlib.figure.Figure) -> str:
    """A figure as an SVG element, to stand in a page."""
    out = io.StringIO()
    figure.savefig(out, format='svg', bbox_inches='tight')
    text = out.getvalue()
    return text[text.index('<svg'):]


def write_rows(path: pathlib.Path,
               rows: list[dict[str, Any]]) -> None:
    """Write a measurement: rows of case, tool, median, min, max, unit, …"""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(
        {'machine': machine(), 'versions': versions(), 'rows': rows},
        indent=1) + '\n')
