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
"""Show what a lab is doing: live on a terminal, a line a step elsewhere."""

import sys
import threading
import time
from typing import TextIO

import rich.console
import rich.live
import rich.spinner
import rich.text

#: Seconds after which a step that still runs gets a line of its own.
SLOW_S = 2.0


def _failure(name: str, seconds: float) -> str:
    return f'FAILED in step {name!r} after {seconds:.1f} s'


class Plain:
    """A line for each step that has ended; before it one for a slow step."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._started = time.monotonic()
        self._lock = threading.Lock()
        #: One for each step that runs; several steps may share a name.
        self._timers: dict[str, list[threading.Timer]] = {}

    def __enter__(self) -> 'Plain':
        return self

    def __exit__(self, *exc: object) -> None:
        for name in list(self._timers):
            while self._timers[name]:
                self._stop_timer(name)

    def say(self, text: str) -> None:
        with self._lock:
            self._print(text)

    def _print(self, text: str) -> None:
        elapsed = time.monotonic() - self._started
        print(f'{elapsed:6.1f} s  {text}', file=self._out, flush=True)

    def started(self, name: str) -> None:
        timer = threading.Timer(SLOW_S, self._announce, (name,))
        timer.daemon = True
        with self._lock:
            self._timers.setdefault(name, []).append(timer)
        timer.start()

    def _announce(self, name: str) -> None:
        with self._lock:
            # The step may have ended while this waited for the lock.
            if self._timers[name]:
                self._print(f'{name} ...')

    def _stop_timer(self, name: str) -> None:
        with self._lock:
            self._timers[name].pop(0).cancel()

    def done(self, name: str, seconds: float) -> None:
        self._stop_timer(name)
        self.say(f'{name} ({seconds:.1f} s)')

    def failed(self, name: str, seconds: float) -> None:
        self._stop_timer(name)
        self.say(_failure(name, seconds))


class Live:
    """The steps done, and below them a line that names those running."""

    def __init__(self, console: rich.console.Console) -> None:
        self._running: list[str] = []
        self._spinner = rich.spinner.Spinner('dots')
        self._live = rich.live.Live(self._spinner, console=console,
                                    transient=True)

    def __enter__(self) -> 'Live':
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False)

    def started(self, name: str) -> None:
        self._running.append(name)
        self._show()

    def done(self, name: str, seconds: float) -> None:
        self._ended(name, rich.text.Text.assemble(
            ('\N{CHECK MARK} ', 'green'), name,
            (f'  {seconds:.1f} s', 'dim')))

    def failed(self, name: str, seconds: float) -> None:
        self._ended(name, rich.text.Text(_failure(name, seconds), 'red'))

    def _ended(self, name: str, line: rich.text.Text) -> None:
        self._running.remove(name)
        self._live.console.print(line)
        self._show()

    def _show(self) -> None:
        self._spinner.update(
            text=rich.text.Text(', '.join(self._running), style='dim',
                                overflow='ellipsis', no_wrap=True))


def report(out: TextIO | None = None) -> Plain | Live:
    """:returns: what suits where the output goes."""
    out = out or sys.stdout
    return Live(rich.console.Console(file=out)) if out.isatty() \
        else Plain(out)
