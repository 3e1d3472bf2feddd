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
"""Show which steps run: live on a terminal, as lines elsewhere."""

import abc
from collections.abc import Iterator
import contextlib
import dataclasses
import sys
import threading
import time
from typing import Self
from typing import TextIO

import click
import rich.console
import rich.live
import rich.spinner
import rich.text

#: Seconds after which a step that still runs gets a line of its own.
SLOW_S = 2.0
#: Seconds between two further lines about that step.
HEARTBEAT_S = 30.0


@dataclasses.dataclass(eq=False)
class _Step:
    """A step that runs."""

    name: str
    detail: str = ''
    began: float = dataclasses.field(default_factory=time.monotonic)
    ended: threading.Event = dataclasses.field(
        default_factory=threading.Event)

    @property
    def text(self) -> str:
        return f'{self.name}: {self.detail}' if self.detail else self.name

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


class Display(abc.ABC):
    """Shows the steps that run; several steps may share a name."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._running: list[_Step] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            while self._running:
                self._end(self._running[0].name)

    @abc.abstractmethod
    def say(self, text: str) -> None:
        """Print a line."""

    def started(self, name: str) -> None:
        """Show that a step runs."""
        with self._lock:
            step = _Step(name)
            self._running.append(step)
            self._show(step)

    def update(self, name: str, detail: str) -> None:
        """Show how far a step is."""
        with self._lock:
            self._find(name).detail = detail

    def done(self, name: str, seconds: float, detail: str = '') -> None:
        """Show that a step has succeeded."""
        with self._lock:
            self._end(name)
            self._print_done(f'{name}: {detail}' if detail else name, seconds)

    def failed(self, name: str, seconds: float, detail: str = '') -> None:
        """Show that a step has failed or was interrupted."""
        text = f'FAILED in step {name!r} after {seconds:.1f} s'
        with self._lock:
            self._end(name)
            self._print_failed(f'{text}: {detail}' if detail else text)

    def _find(self, name: str) -> _Step:
        return next(step for step in self._running if step.name == name)

    def _end(self, name: str) -> None:
        step = self._find(name)
        step.ended.set()
        self._running.remove(step)

    @abc.abstractmethod
    def _show(self, step: _Step) -> None:
        """Show a step until it has ended."""

    @abc.abstractmethod
    def _print_done(self, text: str, seconds: float) -> None:
        ...

    @abc.abstractmethod
    def _print_failed(self, text: str) -> None:
        ...


class Plain(Display):
    """A line for each step that has ended; before it some for a slow step.

    :param clock: begin lines with the seconds since the display was made
    """

    def __init__(self, out: TextIO, clock: bool = True) -> None:
        super().__init__()
        self._out = out
        self._clock = clock
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        with self._lock:
            clock = (f'{time.monotonic() - self._began:6.1f} s  '
                     if self._clock else '')
            print(f'{clock}{text}', file=self._out, flush=True)

    def _show(self, step: _Step) -> None:
        threading.Thread(target=self._watch, args=(step,),
                         daemon=True).start()

    def _watch(self, step: _Step) -> None:
        if not step.ended.wait(SLOW_S):
            self._say_unless_ended(step, f'{step.text} ...')
        while not step.ended.wait(HEARTBEAT_S):
            self._say_unless_ended(step, f'{step.text} ... '
                                         f'({step.seconds:.0f} s)')

    def _say_unless_ended(self, step: _Step, text: str) -> None:
        with self._lock:
            if not step.ended.is_set():
                self.say(text)

    def _print_done(self, text: str, seconds: float) -> None:
        self.say(f'{text} ({seconds:.1f} s)')

    def _print_failed(self, text: str) -> None:
        self.say(text)


class Live(Display):
    """The steps that have ended, and below them one line of those running."""

    def __init__(self, console: rich.console.Console) -> None:
        super().__init__()
        self._spinner = rich.spinner.Spinner('dots')
        self._live = rich.live.Live(get_renderable=self._line, transient=True,
                                    console=console)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._live.stop()

    def say(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False,
                                 soft_wrap=True)

    def _show(self, step: _Step) -> None:
        self._live.refresh()

    def _end(self, name: str) -> None:
        super()._end(name)
        self._live.refresh()

    def _line(self) -> rich.spinner.Spinner:
        shown = [f'{step.text} ({step.seconds:.0f} s)'
                 if step.seconds > SLOW_S else step.text
                 for step in list(self._running)]
        # Spinner.update() would ignore an empty text.
        self._spinner.text = rich.text.Text(
            ', '.join(shown), style='dim', overflow='ellipsis', no_wrap=True)
        return self._spinner

    def _print_done(self, text: str, seconds: float) -> None:
        self._live.console.print(rich.text.Text.assemble(
            ('\N{CHECK MARK} ', 'green'), text,
            (f'  {seconds:.1f} s', 'dim')))

    def _print_failed(self, text: str) -> None:
        self._live.console.print(rich.text.Text(text, 'red'))


def report(out: TextIO | None = None, clock: bool = True) -> Display:
    """Return the display that suits where the output goes.

    :param clock: begin lines with the seconds since now, if not live
    """
    out = out or sys.stdout
    if out.isatty():
        return Live(rich.console.Console(file=out))
    return Plain(out, clock)


@contextlib.contextmanager
def working(name: str) -> Iterator[None]:
    """Show one step on standard error."""
    with report(sys.stderr, clock=False) as display:
        display.started(name)
        began = time.monotonic()
        try:
            yield
        except BaseException:
            display.failed(name, time.monotonic() - began)
            raise
        display.done(name, time.monotonic() - began)


def say(text: str) -> None:
    """Print an outcome, a line on standard output."""
    click.echo(text)


def note(text: str) -> None:
    """Print a remark, a line on standard error."""
    click.echo(text, err=True)
