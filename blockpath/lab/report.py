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
"""What a scenario finds, as it goes and as a file afterwards.

The file is ``{"machine", "versions", "checks": [{"name", "passed",
"figure"}], "figures": {…}}``, in JSON.
"""

from collections.abc import Iterator
import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import time
from typing import Any
from typing import Protocol

import psutil

_PACKAGES = ('nova', 'cinder', 'os-brick', 'libvirt-python')


class Output(Protocol):
    """Where progress is shown."""

    def say(self, text: str) -> None:
        ...

    def started(self, name: str) -> None:
        ...

    def done(self, name: str, seconds: float) -> None:
        ...


def machine() -> dict[str, Any]:
    """What figures were measured on."""
    return {
        'system': f'{platform.system()} {platform.release()}',
        'architecture': platform.machine(),
        'processors': os.cpu_count(),
        'memory_mib': psutil.virtual_memory().total >> 20,
    }


def versions() -> dict[str, str]:
    """Of what takes part in moving a guest."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    for name, command in (('libvirt', ['libvirtd', '--version']),
                          ('qemu', ['qemu-system-x86_64', '--version'])):
        done = subprocess.run(command, capture_output=True, text=True)
        found[name] = done.stdout.partition('\n')[0].strip()
    return found


class Report:
    """Checks and figures of one run.

    :param output: shows progress.
    :param folder: for the report, and whatever else a scenario writes.
    """

    def __init__(self, output: Output, folder: pathlib.Path) -> None:
        self._output = output
        self.folder = folder
        self.checks: list[dict[str, Any]] = []
        self.figures: dict[str, Any] = {}

    def say(self, text: str) -> None:
        self._output.say(text)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show that something is being done, and how long it took."""
        started = time.monotonic()
        self._output.started(name)
        yield
        self._output.done(name, time.monotonic() - started)

    def check(self, name: str, passed: object, figure: Any = None) -> bool:
        """Note whether something is as it must be.

        :param passed: anything; only its truth counts.
        :param figure: what was measured, for JSON.
        """
        self.checks.append({'name': name, 'passed': bool(passed),
                            'figure': figure})
        shown = '' if figure is None else f' ({figure})'
        self.say(f'{"ok" if passed else "FAILED"}: {name}{shown}')
        return bool(passed)

    def figure(self, name: str, value: Any) -> None:
        """Note a measurement, for JSON."""
        self.figures[name] = value

    @property
    def failed(self) -> list[str]:
        """Names of the checks that did not pass."""
        return [check['name'] for check in self.checks
                if not check['passed']]

    def write(self) -> pathlib.Path:
        """:returns: the path of report.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / 'report.json'
        path.write_text(json.dumps(
            {'machine': machine(), 'versions': versions(),
             'checks': self.checks, 'figures': self.figures},
            indent=1, default=str) + '\n')
        return path
