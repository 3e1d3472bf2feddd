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
"""Look, during a run, for exposed passwords and for SCSI devices.

A password may be on a command line for a moment only, and a device may come
and go: an agent on each host looks for both all the time (see
:mod:`blockpath.observe.leak_agent`). Logs and temporary files stay, and are
searched at the end.
"""

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import fnmatch
import json
import pathlib
import select
import subprocess
import sys
import threading
import time
from typing import Any
from typing import Protocol

from blockpath.console import report as reports
from blockpath.machine import anchor
from blockpath.machine import errors
from blockpath.machine import processes
from blockpath.machine import topology

#: In findings, the machine that runs the lab.
HERE = 'this machine'
_AGENT = pathlib.Path(__file__).with_name('leak_agent.py')
#: Without the user's settings and site-packages.
_OPTIONS = ('-I', '-S')
#: Seconds until all agents must have looked once, on a busy machine.
_START = 60.0
#: Seconds until all agents must have searched the files.
_SEARCH = 120.0
#: Seconds between two requests for the passwords of the targets.
_PAUSE = 1.0
#: Of this machine.
_TEMPORARY = ('/tmp', '/var/tmp')
#: Of a host with a kernel of its own; what is mounted below is not searched.
_LOGS_ON_HOST = ('/var/log',)
_FOLDERS_ON_HOST = ('/tmp', '/var/tmp', '/run', '/run/lock', '/etc',
                    '/var/lib/iscsi', '/var/lib/nova')
#: Permissions of a file that only its owner can access.
_OWNER = 0o600


@dataclasses.dataclass(frozen=True)
class Place:
    """Files that may hold a password if only their owner can access them.

    :ivar pattern: of their paths
    :ivar session: the host must be logged in to the target that a part of
        the path names
    """

    pattern: str
    reason: str
    session: bool = False


#: The only files, of the folders that are searched, that may hold passwords.
ALLOWED = (
    *(Place(f'{folder}/nodes/*',
            'open-iscsi logs in with these records, and iscsid does so again '
            'when it restarts', session=True)
      for folder in ('/etc/iscsi', '/var/lib/iscsi')),
    *(Place(f'{folder}/*',
            'the targets are restored from this file when the host starts')
      for folder in ('/etc/rtslib-fb-target', '/etc/target')),
    Place('/etc/libvirt/secrets/*',
          'libvirtd keeps the secrets here that Nova defines, and hands them '
          'to QEMU'),
)

#: Command lines that hold a password for as long as they run: Cinder's helper
#: for LIO takes it in no other way, and Cinder runs it as upstream does.
ALLOWED_COMMANDS = (
    '*/python */bin/cinder-rtstool create /dev/*',
    '*/python */bin/cinder-rtstool add-initiator iqn.*',
)

#: Returns a command line, for this machine, that runs one on a host.
Command = Callable[[Sequence[str]], list[str]]


class Hosts(Protocol):
    """The hosts of a lab."""

    def commands(self) -> Mapping[str, Command]:
        """Return how to run a program on each host that has a kernel."""
        ...


class Storage(Protocol):
    """The targets of a lab."""

    def passwords(self) -> Iterable[str]:
        """Return the passwords that are in use now."""
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


@dataclasses.dataclass(frozen=True)
class Answer:
    """An agent's findings; see :mod:`blockpath.observe.leak_agent`.

    :ivar files: paths and modes
    :ivar journal: whether it holds a password
    """

    exposed: Sequence[str]
    devices: Sequence[str]
    files: Sequence[tuple[str, int]]
    journal: bool
    sessions: Collection[str]
    looks: int

    def leaks(self) -> Iterator[str]:
        """Yield what holds a password and must not."""
        if self.journal:
            yield 'the journal'
        for path, mode in self.files:
            if not self._is_allowed(path, mode):
                yield f'{path} (mode {mode:04o})'

    def _is_allowed(self, path: str, mode: int) -> bool:
        return not mode & ~_OWNER and any(
            fnmatch.fnmatchcase(path, place.pattern) and
            (not place.session or self._is_logged_in(path))
            for place in ALLOWED)

    def _is_logged_in(self, path: str) -> bool:
        return not set(pathlib.PurePath(path).parts).isdisjoint(self.sessions)


class _NoAnswer(Exception):
    """An agent has ended, or does not answer."""


class _Agent:
    """An agent that runs on a host."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)

    def wait_for_look(self, deadline: float) -> None:
        """Wait for its first look; end it if that comes too late."""
        assert self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [],
                                    _remaining(deadline))
        if not ready:
            self._process.kill()

    def send(self, *messages: Mapping[str, Any]) -> None:
        assert self._process.stdin
        try:
            for message in messages:
                self._process.stdin.write(json.dumps(message).encode() +
                                          b'\n')
            self._process.stdin.flush()
        except BrokenPipeError:
            # There will be no answer.
            pass

    def end(self) -> None:
        """End it without an answer."""
        self._process.kill()
        self._process.communicate()

    def answer(self, deadline: float) -> Answer:
        """Wait for the answer.

        :raises _NoAnswer: there is none; names the reason
        """
        try:
            out, err = self._process.communicate(timeout=_remaining(deadline))
        except subprocess.TimeoutExpired:
            self.end()
            raise _NoAnswer('no answer in time') from None
        try:
            return Answer(**json.loads(out.splitlines()[-1]))
        except (IndexError, TypeError, ValueError):
            said = err.decode(errors='replace').strip().rpartition('\n')[2]
            raise _NoAnswer('no answer, exit code '
                            f'{self._process.returncode}: {said}') from None


def _remaining(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def checks(secret: str = 'CHAP password',
           no_devices: bool = False) -> list[str]:
    """Name the checks that a look-out makes."""
    return [*(['no SCSI device appeared'] if no_devices else []),
            f'no command line but rtstool\'s held a {secret}',
            f'no log or temporary file holds a {secret}']


class Lookout:
    """Watches command lines and SCSI devices until its block ends.

    :ivar answers: of the agents, by host; filled by :meth:`collect`
    :ivar missing: for each part of the evidence that is missing, the reason
    """

    def __init__(self, lab: Lab, passwords: Collection[str]) -> None:
        """:param passwords: in addition to the passwords of the targets"""
        self._lab = lab
        self._passwords = set(passwords)
        self._agents: dict[str, _Agent] = {}
        self.answers: dict[str, Answer] = {}
        self.missing: list[str] = []
        #: Why the last request for the passwords failed.
        self._failure = ''
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow_passwords,
                                        daemon=True)

    def __enter__(self) -> 'Lookout':
        commands = {HERE: [sys.executable, *_OPTIONS, str(_AGENT)]}
        commands |= {
            host: command(['python3', *_OPTIONS, str(_AGENT)])
            for host, command in self._lab.hosts.commands().items()}
        deadline = time.monotonic() + _START
        self._agents = {host: _Agent(command)
                        for host, command in commands.items()}
        for agent in self._agents.values():
            agent.wait_for_look(deadline)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None,
                 *exc: object) -> None:
        self._ended.set()
        self._thread.join()
        if kind:
            for agent in self._agents.values():
                agent.end()
            return
        self._add_passwords()
        passwords = {'passwords': sorted(self._passwords)}
        here, on_host = _search_here(self._lab.site), _search_on_host()
        for host, agent in self._agents.items():
            agent.send(passwords,
                       {'finish': here if host == HERE else on_host})

    def _follow_passwords(self) -> None:
        while not self._ended.wait(_PAUSE):
            self._add_passwords()

    def _add_passwords(self) -> None:
        try:
            self._passwords |= set(self._lab.storage.passwords())
            self._failure = ''
        except Exception as exc:
            # Its text may hold a password.
            self._failure = type(exc).__name__

    def collect(self) -> None:
        """Wait until the agents have searched the files.

        Call this after the block.
        """
        deadline = time.monotonic() + _SEARCH
        for host, agent in self._agents.items():
            try:
                self.answers[host] = agent.answer(deadline)
            except _NoAnswer as exc:
                self.missing.append(f'{host}: {exc}')
        if self._failure:
            self.missing.append('the passwords of the targets could not be '
                                f'read: {self._failure}')
        if not self._passwords:
            self.missing.append('no password is known')

    def tell(self, report: reports.Report, secret: str = 'CHAP password',
             no_devices: bool = False) -> None:
        """Wait for the findings, and report them.

        :param secret: names the passwords
        :param no_devices: check that no SCSI device appeared
        """
        with report.step('logs and temporary files searched'):
            self.collect()
        looks = ', '.join(f'{host} {answer.looks}'
                          for host, answer in self.answers.items())
        looks = f'looks: {looks}; passwords: {len(self._passwords)}'
        found = [self.exposed(), self.files()]
        if no_devices:
            found.insert(0, self.devices())
        for name, findings in zip(checks(secret, no_devices), found):
            report.check(name, not (self.missing or findings),
                         '; '.join([*self.missing, *findings, looks]))

    def exposed(self) -> list[str]:
        """Return command lines that held a password, the password masked."""
        return [f'{host}: {line}' for host, answer in self.answers.items()
                for line in answer.exposed
                if not any(fnmatch.fnmatchcase(line, pattern)
                           for pattern in ALLOWED_COMMANDS)]

    def devices(self) -> list[str]:
        """Return SCSI devices that appeared."""
        return [f'{host}: {device}' for host, answer in self.answers.items()
                for device in answer.devices]

    def files(self) -> list[str]:
        """Return files that hold a password and must not."""
        return [f'{host}: {path}' for host, answer in self.answers.items()
                for path in answer.leaks()]


def _search_here(site: topology.Site) -> dict[str, Any]:
    return {'folders': [
        _folder(site.log),
        *map(_folder, _temporary(site)),
        *(_folder(site.host(host.name), ending='.log')
          for host in topology.HOSTS),
        *(_folder(path, new=True, without=[str(site.state)])
          for path in _TEMPORARY)]}


def _search_on_host() -> dict[str, Any]:
    return {'folders': [*map(_folder, _LOGS_ON_HOST),
                        *(_folder(path, new=True)
                          for path in _FOLDERS_ON_HOST)],
            'journal': True}


def _folder(path: str | pathlib.Path, ending: str = '', new: bool = False,
            without: Sequence[str] = ()) -> dict[str, Any]:
    """Return a folder as the agent takes it."""
    return {'path': str(path), 'ending': ending, 'new': new,
            'without': list(without)}


def _temporary(site: topology.Site) -> Iterator[str]:
    """Yield the folders of temporary files that namespaces hide.

    :raises LabError: a host is not up
    """
    records = processes.Records(site.run, site.log)
    for host in topology.NAMESPACES:
        keeper = records.get(f'anchor-{host.name}')
        if keeper is None or not keeper.alive:
            raise errors.LabError(f'host {host.name} is not up')
        yield f'/proc/{keeper.pid}/root{anchor.TEMPORARY}'
