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
"""Looks for exposed passwords, and for SCSI devices, on one host.

Any Python since 3.11 runs this file: ``python3 -IS leak_agent.py``. It prints
``{"looking": true}`` after its first look, and reads JSON from its standard
input, an object a line::

    {"passwords": ["...", ...]}         search for these as well
    {"finish": {"folders": [{"path": "/tmp", "ending": "", "new": true,
                             "without": []}, ...], "journal": false}}

"finish" ends the looks and searches the folders: files with the ending, not
below the paths in "without", of any age and size unless "new" is true. Then
comes the answer, and the end::

    {"exposed": ["program --password=***", ...], "devices": ["2:0:0:1", ...],
     "files": [["/tmp/note", 384], ...], "journal": false,
     "sessions": ["iqn...", ...], "looks": 1234}

"files" holds paths and modes, "journal" whether systemd's journal holds a
password, "sessions" the names of the iSCSI targets that the host is logged in
to. The agent masks passwords in all that it prints. It keeps command lines
and searches them at the end: a program may have a password on its command
line before the agent receives that password.
"""

from collections.abc import Iterator
import glob
import json
import os
import select
import stat
import subprocess
import sys
import time
import traceback
from typing import Any
from typing import IO

#: Seconds between two looks: the agent may miss a command line that is shown
#: for a shorter time.
PAUSE = 0.03
#: Seconds in which each look includes a new process: it may still start
#: another program.
YOUNG = 0.2
#: Seconds between two looks that include all processes. All looks together
#: take 3 % of a core on a host with 90 processes.
INTERVAL = 1.0
#: Seconds by which the time of a change to a file may lag.
TICK = 1.0
#: Larger files are images and memory, not notes of passwords.
LARGEST = 16 << 20
DEVICES = '/sys/class/scsi_device'
SESSIONS = '/sys/class/iscsi_session'
MASK = b'***'
#: A larger buffer would be mapped, and unmapped, with each read.
_CHUNK = 64 << 10
_SEARCHED_AT_ONCE = 1 << 20


class Agent:
    """Collects command lines and devices; searches all at the end."""

    def __init__(self) -> None:
        # Files are stamped by a clock that advances in ticks, and later than
        # that on a busy machine.
        self.began = time.time() - TICK
        self.passwords: set[bytes] = set()
        self.lines: set[bytes] = set()
        self.devices: set[str] = set()
        self.looks = 0
        self._known_devices = _entries(DEVICES)
        self._processes: set[str] = set()
        #: Process -> when it stops being young.
        self._young: dict[str, float] = {}
        self._next_of_all = 0.0

    def look(self, of_all: bool = False) -> None:
        """Look at processes and devices.

        :param of_all: include processes that are neither new nor due
        """
        now = time.monotonic()
        found = _entries('/proc')
        for name in found - self._processes:
            if name.isdigit():
                self._young[name] = now + YOUNG
        self._processes = found
        if of_all or now >= self._next_of_all:
            self._next_of_all = now + INTERVAL
            self.lines.update(_command_line(name) for name in found
                              if name.isdigit())
        else:
            self.lines.update(map(_command_line, self._young))
        self._young = {name: end for name, end in self._young.items()
                       if end > now and name in found}
        self.devices |= _entries(DEVICES) - self._known_devices
        self.looks += 1

    def answer(self, folders: list[dict[str, Any]],
               journal: bool = False) -> dict[str, Any]:
        """Search what was collected, and files.

        :param folders: as in the module's description
        :param journal: search systemd's journal
        """
        words = _Words(self.passwords)
        files = []
        for folder in folders:
            for path, status in self._files(**folder):
                if words.are_in_file(path):
                    files.append((words.mask(os.fsencode(path)),
                                  stat.S_IMODE(status.st_mode)))
        return {'exposed': sorted({words.mask(line.replace(b'\0', b' '))
                                   for line in self.lines
                                   if words.are_in(line)}),
                'devices': sorted(self.devices), 'files': sorted(files),
                'journal': journal and _is_in_journal(words),
                'sessions': sorted(_sessions()), 'looks': self.looks}

    def _files(self, path: str, ending: str, new: bool, without: list[str]
               ) -> Iterator[tuple[str, os.stat_result]]:
        for parent, folders, names in os.walk(path):
            # A file system that is mounted below may be a whole system.
            folders[:] = [
                name for name in folders
                if not os.path.ismount(os.path.join(parent, name)) and
                os.path.join(parent, name) not in without]
            for name in names:
                file = os.path.join(parent, name)
                try:
                    status = os.lstat(file)
                except OSError:
                    continue
                if (name.endswith(ending) and stat.S_ISREG(status.st_mode) and
                        (not new or self._is_new_and_small(status))):
                    yield file, status

    def _is_new_and_small(self, status: os.stat_result) -> bool:
        return status.st_mtime > self.began and status.st_size < LARGEST


class _Words:
    """The passwords to search for."""

    def __init__(self, words: set[bytes]) -> None:
        # One may begin with another: the longer one is masked first.
        self._words = sorted(words, key=len, reverse=True)

    def are_in(self, text: bytes) -> bool:
        return any(word in text for word in self._words)

    def mask(self, text: bytes) -> str:
        for word in self._words:
            text = text.replace(word, MASK)
        return text.decode(errors='replace')

    def are_in_stream(self, stream: IO[bytes]) -> bool:
        window = b''
        longest = max(map(len, self._words), default=0)
        while chunk := stream.read(_SEARCHED_AT_ONCE):
            window = window[-longest:] + chunk
            if self.are_in(window):
                return True
        return False

    def are_in_file(self, path: str) -> bool:
        try:
            with open(path, 'rb') as file:
                return self.are_in_stream(file)
        except OSError:
            # It has gone since.
            return False


def _entries(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _command_line(process: str) -> bytes:
    line = b''
    try:
        fd = os.open(f'/proc/{process}/cmdline', os.O_RDONLY)
        try:
            while True:
                chunk = os.read(fd, _CHUNK)
                line += chunk
                if len(chunk) < _CHUNK:
                    return line
        finally:
            os.close(fd)
    except OSError:
        # It has ended since.
        return line


def _is_in_journal(words: _Words) -> bool:
    """Whether systemd's journal holds a password.

    Its files hold long messages in compressed form.
    """
    with subprocess.Popen(
            ['journalctl', '--no-pager', '--quiet', '--output=export'],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as reader:
        assert reader.stdout
        if words.are_in_stream(reader.stdout):
            reader.kill()
            return True
    if reader.returncode:
        raise OSError('journalctl failed')
    return False


def _sessions() -> Iterator[str]:
    for path in glob.glob(f'{SESSIONS}/*/targetname'):
        try:
            with open(path) as file:
                yield file.read().strip()
        except OSError:
            # It was logged out since.
            continue


def _lines(agent: Agent) -> Iterator[bytes]:
    """Yield lines of the standard input; look while there are none."""
    received = b''
    while True:
        ready, _, _ = select.select([sys.stdin], [], [], PAUSE)
        if ready:
            data = os.read(sys.stdin.fileno(), _CHUNK)
            if not data:
                return
            *lines, received = (received + data).split(b'\n')
            yield from lines
        agent.look()


def main() -> int:
    """:returns: the exit code: 1 if the input ends before "finish"."""
    agent = Agent()
    agent.look()
    print(json.dumps({'looking': True}), flush=True)
    for line in _lines(agent):
        message = json.loads(line)
        agent.passwords |= {word.encode()
                            for word in message.get('passwords', ())}
        if 'finish' in message:
            agent.look(of_all=True)
            print(json.dumps(agent.answer(**message['finish'])), flush=True)
            return 0
    return 1


def _show_exception(kind: type[BaseException], exc: BaseException,
                    trace: Any) -> None:
    """Print where an exception was raised; its text may hold a password."""
    traceback.print_tb(trace)
    print(kind.__name__, file=sys.stderr)


if __name__ == '__main__':
    sys.excepthook = _show_exception
    sys.exit(main())
