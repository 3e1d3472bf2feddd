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
"""Looks, during a run, for what must never be there.

A password on a command line is seen for a moment only, and so is a device
that comes and goes: both are looked for all the time, in a thread. Logs and
temporary files stay, and are searched at the end.
"""

from collections.abc import Collection
from collections.abc import Iterable
import os
import pathlib
import stat
import threading
import time
from typing import Protocol

from blockpath.console import report as reports
from blockpath.machine import topology

#: Seconds between two looks at all processes: a process that lives shorter
#: than this may be missed, one that logs in to a target does not.
_PAUSE = 0.02
#: Seconds that the clock of files may be behind.
_TICK = 1.0
_TEMPORARY = ('/tmp', '/var/tmp')
#: Larger files are images and memory, not notes of passwords.
_LARGEST = 16 << 20


class Hosts(Protocol):
    """The hosts of a lab."""

    @property
    def names(self) -> Iterable[str]:
        """Names of the compute hosts."""
        ...

    def root(self, host: str) -> pathlib.Path:
        ...

    def scsi_devices(self) -> Iterable[str]:
        ...


class Storage(Protocol):
    """The targets of a lab."""

    def passwords(self) -> Iterable[str]:
        ...


class Lab(Protocol):
    """The parts of a lab that are watched."""

    @property
    def site(self) -> topology.Site:
        ...

    @property
    def hosts(self) -> Hosts:
        ...

    @property
    def storage(self) -> Storage:
        ...


def checks(secret: str = 'CHAP password') -> list[str]:
    """Name the checks that a lookout makes in the end."""
    return ['no SCSI device appeared',
            f'no command line held a {secret}',
            f'no log or temporary file holds a {secret}']


class Lookout:
    """Watches command lines and SCSI devices until its block ends.

    :ivar exposed: command lines that held a password, the password masked
    :ivar devices: SCSI devices that appeared
    :ivar looks: how often everything was looked at
    """

    def __init__(self, lab: Lab, passwords: Collection[str]) -> None:
        """:param passwords: beside those of the targets, as they come"""
        self._lab = lab
        self._passwords = {word.encode() for word in passwords}
        self._known = set(lab.hosts.scsi_devices())
        self.exposed: set[str] = set()
        self.devices: set[str] = set()
        self.looks = 0
        # Files are stamped by a clock that goes in ticks, and later than
        # that on a busy machine: what is written just after now may be
        # dated before it.
        self.began = time.time() - _TICK
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> 'Lookout':
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_PAUSE):
            self._look()

    def _look(self) -> None:
        self._passwords |= {word.encode()
                            for word in self._lab.storage.passwords()}
        for entry in os.scandir('/proc'):
            if entry.name.isdigit():
                self._check(_read(pathlib.Path(entry.path, 'cmdline')))
        self.devices |= set(self._lab.hosts.scsi_devices()) - self._known
        self.looks += 1

    def _check(self, line: bytes) -> None:
        for word in self._passwords:
            if word in line:
                shown = line.replace(word, b'***').replace(b'\0', b' ')
                self.exposed.add(shown.decode(errors='replace'))

    def tell(self, report: reports.Report,
             secret: str = 'CHAP password') -> None:
        """Search the files, and report all that was found.

        :param secret: what the passwords are
        """
        report.check('no SCSI device appeared', not self.devices,
                     f'{self.looks} looks')
        report.check(f'no command line held a {secret}', not self.exposed,
                     '; '.join(sorted(self.exposed)) or f'{self.looks} looks')
        with report.step('logs and temporary files searched'):
            found = self.files_with_passwords()
        report.check(f'no log or temporary file holds a {secret}', not found,
                     ', '.join(found))

    def files_with_passwords(self) -> list[str]:
        """Logs of the lab, and temporary files since the run began.

        Those of the second before it are among them.
        """
        found = []
        for path in self._files():
            content = _read(path)
            if any(word in content for word in self._passwords):
                found.append(str(path))
        return sorted(found)

    def _files(self) -> Iterable[pathlib.Path]:
        site = self._lab.site
        yield from _below(site.log)
        for host in self._lab.hosts.names:
            yield from _below(self._lab.hosts.root(host) / 'run/tmp')
            yield from _below(site.host(host), '.log')
        for folder in _TEMPORARY:
            for path in _below(pathlib.Path(folder)):
                if path.is_relative_to(site.state):
                    continue
                if self._is_new_and_small(path):
                    yield path

    def _is_new_and_small(self, path: pathlib.Path) -> bool:
        try:
            status = path.stat()
        except OSError:
            return False
        return (status.st_mtime > self.began and
                status.st_size < _LARGEST)


def _below(folder: pathlib.Path, ending: str = ''
           ) -> Iterable[pathlib.Path]:
    # Path.rglob fails when a folder goes meanwhile, as temporary ones do.
    # What is mounted below is not temporary: it may be a whole system.
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders
                      if not os.path.ismount(os.path.join(parent, name))]
        for name in names:
            path = pathlib.Path(parent, name)
            if name.endswith(ending) and stat.S_ISREG(_mode(path)):
                yield path


def _mode(path: pathlib.Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        # A process or a file that has gone since.
        return b''
