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

``report.json`` holds ``{"machine", "versions", "acts": [{"name", "passed",
"figure"}], "checks": [{"name", "passed", "figure"}], "figures": {…}}``; a
measurement ``{"machine", "versions", "rows": […]}``.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
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
from typing import Protocol

import jinja2
import matplotlib.figure
import rich.box
import rich.markup
import rich.table

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
    """Whatever a figure of time depends on, as far as it can be told."""
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
    """One thing that was to hold, and what was seen of it."""

    name: str
    passed: bool
    figure: str = ''


@dataclasses.dataclass(frozen=True)
class Act:
    """A part of a run, with its checks and how long it took."""

    title: str
    checks: Sequence[Check]
    seconds: float

    def check(self) -> Check:
        """Whether all of its checks passed, as one."""
        passed = sum(check.passed for check in self.checks)
        return Check(self.title, passed == len(self.checks),
                     f'{passed} of {len(self.checks)} checks, '
                     f'{self.seconds:.0f} s')


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page: plots are SVG, listings stand side by side."""

    title: str
    text: str = ''
    plots: Sequence[str] = ()
    listings: Sequence[tuple[str, str]] = ()


class Output(Protocol):
    """Where progress is shown."""

    def say(self, text: str) -> None:
        ...

    def started(self, name: str) -> None:
        ...

    def done(self, name: str, seconds: float) -> None:
        ...

    def failed(self, name: str, seconds: float) -> None:
        ...


class Report:
    """What a run finds, as it goes and as files afterwards.

    :param output: shows progress
    :param folder: for the report, and whatever else the run writes
    """

    def __init__(self, output: Output, folder: pathlib.Path) -> None:
        self._output = output
        self.folder = folder
        self.checks: list[Check] = []
        self.acts: list[Act] = []
        self.figures: dict[str, Any] = {}
        self.sections: list[Section] = []

    def say(self, text: str) -> None:
        self._output.say(text)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show that something is being done, how it ends, and when."""
        started = time.monotonic()
        self._output.started(name)
        try:
            yield
        except BaseException:
            self._output.failed(name, time.monotonic() - started)
            raise
        self._output.done(name, time.monotonic() - started)

    @contextlib.contextmanager
    def act(self, title: str) -> Iterator[None]:
        """Take what is checked in this block together."""
        started, first = time.monotonic(), len(self.checks)
        self.say(title)
        try:
            yield
        finally:
            self.acts.append(Act(title, tuple(self.checks[first:]),
                                 time.monotonic() - started))

    def check(self, name: str, passed: object, figure: str = '') -> bool:
        """Note whether something is as it must be.

        :param passed: anything; only its truth counts
        :param figure: what was seen, for people
        """
        check = Check(name, bool(passed), figure)
        self.checks.append(check)
        self.say(f'{"ok" if check.passed else "FAILED"}: {name}'
                 f'{f" ({figure})" if figure else ""}')
        return check.passed

    def figure(self, name: str, value: Any) -> None:
        """Note a measurement, for JSON."""
        self.figures[name] = value

    def section(self, title: str, text: str = '', plots: Sequence[str] = (),
                listings: Sequence[tuple[str, str]] = ()) -> None:
        """Add to the page, above the checks."""
        self.sections.append(Section(title, text, plots, listings))

    @property
    def failed(self) -> list[str]:
        """Names of the checks that did not pass."""
        return [check.name for check in self.checks if not check.passed]

    def write(self) -> pathlib.Path:
        """Write ``report.json`` and the page, of a failed run as well.

        :returns: the path of the page
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        data = {'machine': machine(), 'versions': versions(),
                'acts': [dataclasses.asdict(act.check())
                         for act in self.acts],
                'checks': [dataclasses.asdict(check)
                           for check in self.checks],
                'figures': self.figures}
        (self.folder / 'report.json').write_text(
            json.dumps(data, indent=1, default=str) + '\n')
        page = self.folder / 'report.html'
        page.write_text(_PAGE.get_template('report.html.j2').render(
            name=self.folder.name, sections=self.sections, **data))
        return page

    def table(self) -> rich.table.Table:
        """The checks; of acts only a line each, and what failed."""
        table = rich.table.Table('', 'check', 'seen', box=rich.box.SIMPLE)
        played = {id(check) for act in self.acts for check in act.checks}
        for check in [*(act.check() for act in self.acts),
                      *(check for check in self.checks
                        if not check.passed or id(check) not in played)]:
            table.add_row('[green]ok[/]' if check.passed else '[red]FAILED[/]',
                          rich.markup.escape(check.name),
                          rich.markup.escape(check.figure))
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
