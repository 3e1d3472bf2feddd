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
"""A Ceph of one monitor and one OSD, below one folder.

It has no manager: nothing that RBD needs asks for one, but commands of
``ceph`` that do (``pg``, ``df``) never answer.
"""

import base64
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from typing import IO
import uuid

import jinja2

from blockpath.machine import credentials
from blockpath.machine import errors
from blockpath.machine import processes
from blockpath.machine import wait

LOOPBACK = '127.0.0.1'
#: Ports that one cluster uses, from its first on.
PORTS = 24
#: The user that Cinder and benchmarks are.
USER = 'cinder'
ADMIN = 'admin'
MON = 'ceph-mon'
OSD = 'ceph-osd'
DAEMONS = (MON, OSD)
#: Program that must be there -> the Debian package that has it.
PROGRAMS = {
    '/usr/bin/ceph-mon': 'ceph-mon',
    '/usr/bin/ceph-osd': 'ceph-osd',
    '/usr/bin/ceph': 'ceph-common',
}

_CONF = 'ceph.conf'
_SECTIONS = ('global', 'client', 'mon', 'osd')
_TEMPLATES = pathlib.Path(__file__).parent / 'templates'
#: What each may do.
_CAPABILITIES = {
    f'client.{ADMIN}': {'mon': 'allow *', 'osd': 'allow *', 'mgr': 'allow *'},
    f'client.{USER}': {'mon': 'profile rbd', 'osd': 'profile rbd'},
    'osd.0': {'mon': 'allow profile osd', 'osd': 'allow *'},
    'mon.': {'mon': 'allow *'},
}
#: Placement groups of a pool; each costs memory and time at the start.
_GROUPS = 8
#: Seconds that a daemon or a command may take, on a busy machine.
_PATIENCE = 90.0
#: Seconds that a daemon may take to stop before it is killed.
_STOP = 15.0
_ENV = {'PATH': '/usr/sbin:/usr/bin:/sbin:/bin', 'LANG': 'C.UTF-8',
        'HOME': '/', 'CEPH_ARGS': ''}


def command_line(daemon: str, folder: pathlib.Path) -> tuple[str, ...]:
    """How a daemon of a cluster is started; it stays in the foreground."""
    return (f'/usr/bin/{daemon}', '--conf', str(folder / _CONF), '--id',
            'a' if daemon == MON else '0', '--foreground')


def make_key() -> str:
    """A random cephx key: AES, made now, of 16 bytes."""
    secret = os.urandom(16)
    return base64.b64encode(struct.pack(
        '<HIIH', 1, int(time.time()), 0, len(secret)) + secret).decode()


def keyring(keys: Mapping[str, str]) -> str:
    """The text of a keyring.

    :param keys: name, as ``client.cinder``, -> key
    """
    lines = []
    for name, key in keys.items():
        lines += [f'[{name}]', f'\tkey = {key}']
        lines += [f'\tcaps {service} = "{granted}"' for service, granted
                  in _CAPABILITIES[name].items()]
    return '\n'.join(lines) + '\n'


def free_port(address: str = LOOPBACK) -> int:
    """The first of :data:`PORTS` ports in a row that nobody listens at."""
    # Below what the kernel gives to clients.
    for first in range(20000, 32000, PORTS):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + PORTS):
                    probe = stack.enter_context(socket.socket())
                    probe.bind((address, port))
            except OSError:
                continue
            return first
    raise errors.LabError(f'no {PORTS} ports in a row are free on {address}')


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a cluster keeps as long as it lives."""

    fsid: str
    osd: str
    address: str
    port: int


class Cluster:
    """A Ceph cluster, and the files of it.

    Also a context manager: started on entry, stopped and wiped on exit.

    :param folder: of all its files; on a file system that knows O_DIRECT,
        which tmpfs does not
    :param address: where it listens
    :param port: the first of :data:`PORTS` that it listens at; else the
        same as before, or some that are free
    :param pools: RBD pools
    :param size: of the OSD in bytes; its file is sparse
    :param options: section of ceph.conf -> option -> value. They take
        effect at the next start
    :param enter: the start of the command line of whatever is run
    :param records: of the daemons; else below the folder
    """

    def __init__(self, folder: pathlib.Path, address: str = LOOPBACK,
                 port: int | None = None, *,
                 pools: Sequence[str] = ('volumes',), size: int = 64 << 30,
                 options: Mapping[str, Mapping[str, str]] | None = None,
                 enter: Callable[[], Sequence[str]] = tuple,
                 records: processes.Records | None = None) -> None:
        self.folder = folder.absolute()
        self.address = address
        self.port = port
        self.pools = tuple(pools)
        self.size = size
        self.options = dict(options or {})
        if not self.options.keys() <= set(_SECTIONS):
            raise ValueError(f'options are for {", ".join(_SECTIONS)} only')
        self.enter = enter
        self.records = records or processes.Records(self.folder / 'run',
                                                    self.folder / 'log')

    def __enter__(self) -> 'Cluster':
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.wipe()

    # Files ---------------------------------------------------------------

    @property
    def conf(self) -> pathlib.Path:
        """ceph.conf, for daemons and clients; it holds no secret."""
        return self.folder / _CONF

    def keyring(self, client: str = USER) -> pathlib.Path:
        """The file with a client's key; ceph.conf names it."""
        return self.folder / f'client.{client}.keyring'

    def key(self, client: str = USER) -> str:
        """A client's key: what must be found nowhere else."""
        for line in self.keyring(client).read_text().splitlines():
            if line.startswith('\tkey = '):
                return line.removeprefix('\tkey = ')
        raise errors.LabError(f'{self.keyring(client)} has no key')

    @property
    def store(self) -> pathlib.Path:
        """The file that the OSD keeps everything in; sparse."""
        return self.folder / 'osd' / 'block'

    @property
    def _made(self) -> pathlib.Path:
        return self.folder / 'made'

    @functools.cached_property
    def identity(self) -> Identity:
        """:raises LabError: the folder is of one with another address."""
        path = self.folder / 'identity.json'
        if not path.exists():
            found = Identity(str(uuid.uuid4()), str(uuid.uuid4()),
                             self.address,
                             self.port or free_port(self.address))
            path.write_text(json.dumps(dataclasses.asdict(found)))
            return found
        found = Identity(**json.loads(path.read_text()))
        if (found.address, self.port or found.port) != (self.address,
                                                        found.port):
            raise errors.LabError(
                f'the Ceph in {self.folder} listens at {found.address}:'
                f'{found.port}, which can not be changed; wipe it first')
        return found

    def text(self) -> str:
        """The text of ceph.conf."""
        def section(name: str) -> str:
            return ''.join(f'{key} = {value}\n' for key, value in
                           self.options.get(name, {}).items())

        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_TEMPLATES), trim_blocks=True,
            lstrip_blocks=True, undefined=jinja2.StrictUndefined)
        return environment.get_template('ceph.conf.j2').render(
            dataclasses.asdict(self.identity), folder=self.folder,
            size=self.size, ports=PORTS, groups=_GROUPS,
            clients=(ADMIN, USER), section=section)

    def make(self) -> None:
        """Write the configuration; the keys and stores only once."""
        for folder in (self.folder, self.records.run, self.records.log):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        credentials.write_private(self.conf, self.text())
        if self._made.exists():
            return
        for name in ('mon', 'osd'):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(mode=0o700)
        keys = {name: make_key() for name in _CAPABILITIES}
        self.write_keyrings(keys)
        mon, osd = (command_line(daemon, self.folder) for daemon in DAEMONS)
        initial = self.folder / 'initial.keyring'
        map_ = str(self.folder / 'monmap')
        # Left to itself, the monitor does not know a loopback address for
        # its own.
        self.run(['/usr/bin/monmaptool', '--create', '--clobber', '--fsid',
                   self.identity.fsid, '--addv', 'a',
                   f'[v2:{self.identity.address}:{self.identity.port}/0]',
                   map_])
        with concurrent.futures.ThreadPoolExecutor(2) as both:
            list(both.map(self.run, (
                [*mon, '--mkfs', '--keyring', str(initial),
                 '--monmap', map_],
                [*osd, '--mkfs', '--osd-uuid', self.identity.osd,
                 '--no-mon-config'])))
        # The monitor has learned all keys.
        initial.unlink()
        self._made.touch()

    def write_keyrings(self, keys: Mapping[str, str]) -> None:
        """Write the file of each, and the one that the monitor starts with.

        :param keys: name -> key, of all
        """
        for path, names in (
                ('initial.keyring', tuple(keys)),
                ('osd.keyring', ('osd.0',)),
                (self.keyring(ADMIN).name, (f'client.{ADMIN}',)),
                (self.keyring(USER).name, (f'client.{USER}',))):
            credentials.write_private(
                self.folder / path,
                keyring({name: keys[name] for name in names}))

    # Daemons -------------------------------------------------------------

    def start(self) -> None:
        """Start what does not run; it serves when this returns.

        :raises ServiceDied: a daemon ended; with the end of its log
        :raises TimedOut: a daemon does not serve
        """
        self.make()
        self._spawn(MON)
        self.register()
        self._spawn(OSD)
        self.create_pools()

    def _spawn(self, daemon: str) -> None:
        process = self.records.get(daemon)
        if process is None or not process.alive:
            self.records.spawn(
                daemon,
                [*self.enter(), *command_line(daemon, self.folder)], _ENV)

    def register(self) -> None:
        """Tell the monitor of the OSD, as soon as it answers."""
        self.ceph('osd', 'new', self.identity.osd, '0')

    def create_pools(self) -> None:
        """Create the pools that are missing, once the OSD serves."""
        with concurrent.futures.ThreadPoolExecutor(len(self.pools)) as each:
            list(each.map(self._create_pool, self.pools))

    def _create_pool(self, pool: str) -> None:
        self.ceph('osd', 'pool', 'create', pool)
        # Waits for the OSD.
        self.rbd('pool', 'init', pool, client=ADMIN)

    def stop(self) -> None:
        """Stop the daemons; the data stays."""
        for daemon in reversed(DAEMONS):
            process = self.records.get(daemon)
            if process:
                processes.end(process, _STOP)
                self.records.forget(daemon)

    def wipe(self) -> None:
        """Stop the daemons and remove the folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.__dict__.pop('identity', None)

    def pids(self) -> dict[str, int]:
        """The daemons that run: name -> process id."""
        return {process.name: process.pid for process in self._processes()
                if process.alive}

    def _processes(self) -> Iterable[processes.Process]:
        found = map(self.records.get, DAEMONS)
        return [process for process in found if process]

    # Clients -------------------------------------------------------------

    def ceph(self, *arguments: str) -> str:
        """Run a command of ``ceph`` as administrator.

        :returns: what it printed
        :raises LabError: it failed, or a daemon died while it waited
        """
        return self.run(['/usr/bin/ceph', '--conf', str(self.conf),
                          *arguments])

    def rbd(self, *arguments: str, client: str = USER,
            stdin: IO[bytes] | None = None) -> str:
        """Run a command of ``rbd``; see :meth:`ceph`."""
        return self.run(self.rbd_argv(*arguments, client=client), stdin)

    def rbd_argv(self, *arguments: str, client: str = USER) -> list[str]:
        """The command line of ``rbd``, without :attr:`enter`."""
        return ['/usr/bin/rbd', '--conf', str(self.conf), '--id', client,
                *arguments]

    @contextlib.contextmanager
    def piped(self, *arguments: str) -> Iterator[IO[bytes]]:
        """What a command of ``rbd`` prints, while it does.

        :raises LabError: it failed
        """
        with tempfile.TemporaryFile() as err:
            child = subprocess.Popen(
                [*self.enter(), *self.rbd_argv(*arguments)], env=_ENV,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err,
                start_new_session=True)
            output = child.stdout
            assert output
            try:
                with output:
                    yield output
                child.wait(_PATIENCE)
            finally:
                _kill(child)
            if child.returncode:
                raise errors.LabError(
                    f'rbd {" ".join(arguments)} failed: {_end(err)}')

    def answers(self) -> bool:
        """Whether the monitor does; waits for it."""
        return bool(self.ceph('mon', 'stat'))

    def booted(self) -> int:
        """The epoch in which the OSD last came up; 0 when it is down."""
        [osd] = json.loads(self.ceph('osd', 'dump', '--format',
                                     'json'))['osds']
        return osd['up_from'] if osd['up'] else 0

    def run(self, argv: Sequence[str],
            stdin: IO[bytes] | None = None) -> str:
        """Run a command to its end; give up when a daemon dies.

        :returns: what it printed
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = subprocess.Popen(
                [*self.enter(), *argv], env=_ENV, stdout=out, stderr=err,
                stdin=stdin or subprocess.DEVNULL, start_new_session=True)
            command = ' '.join(argv)
            try:
                wait.until(lambda: self._ended(child), f'{command} to finish',
                           _PATIENCE, 0.05)
            finally:
                _kill(child)
            if child.returncode:
                raise errors.LabError(
                    f'{command} failed: {_end(err) or "it says nothing"}')
            out.seek(0)
            return out.read().decode()

    def _ended(self, child: 'subprocess.Popen[bytes]') -> bool:
        if child.poll() is not None:
            return True
        for process in self._processes():
            process.check()
        return False


def _kill(child: 'subprocess.Popen[bytes]') -> None:
    if child.poll() is None:
        # It has a session, and so a group, of its own.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _end(stream: IO[bytes]) -> str:
    """The last lines of a program's complaint, as one."""
    stream.seek(0)
    lines = stream.read().decode(errors='replace').splitlines()
    return '; '.join(line.strip() for line in lines[-3:])
