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
"""Whether a lab is up, and that only one command changes it at a time."""

from collections.abc import Iterator
import contextlib
import enum
import fcntl
import os
import shutil

from blockpath.cloud import logs
from blockpath.machine import errors
from blockpath.machine import namespaces
from blockpath.machine import processes
from blockpath.machine import topology

#: Of what is in the state's folder, what 'down' leaves.
_KEPT = frozenset(('lock', 'log', 'playing'))
#: Is there while a lab is up.
_MARK = 'up'
#: Rounds of killing: a process may start another while it is being killed.
_ROUNDS = 200


class State(enum.Enum):
    """What is found of a lab."""

    DOWN = 'down'
    UP = 'up'
    #: A start or a stop that was killed, or a machine that was restarted.
    REMAINS = 'remains'


@contextlib.contextmanager
def locked(site: topology.Site) -> Iterator[None]:
    """Hold the lab against other commands that start or stop it.

    :raises LabError: another command holds it.
    """
    with _held(site, 'lock', 'another command is starting or stopping this '
                             'lab'):
        yield


@contextlib.contextmanager
def playing(site: topology.Site) -> Iterator[None]:
    """Hold a lab against other scenarios and benches.

    :raises LabError: another one holds it.
    """
    with _held(site, 'playing', 'another scenario or bench runs on this lab'):
        yield


@contextlib.contextmanager
def _held(site: topology.Site, name: str, otherwise: str) -> Iterator[None]:
    site.state.mkdir(mode=0o700, exist_ok=True)
    with open(site.state / name, 'a+') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise errors.LabError(
                f'{otherwise} (process {lock.read().strip() or "unknown"}); '
                'wait for it to end') from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def mark_up(site: topology.Site) -> None:
    """Note that a lab has started."""
    (site.state / _MARK).touch()


def find(site: topology.Site) -> State:
    records = processes.Records(site.run, site.log).all()
    started = (site.state / _MARK).exists()
    if started and any(record.alive for record in records):
        return State.UP
    leftovers = [entry for entry in site.state.glob('*')
                 if entry.name not in _KEPT]
    if leftovers or namespaces.existing(site):
        return State.REMAINS
    return State.DOWN


def clear(site: topology.Site) -> None:
    """Remove all that a lab has made, except its logs.

    Only processes that live in the lab's namespaces, or are in its records,
    are ended. Nothing is asked to stop nicely: nothing of it is kept, and
    what was mounted or listening goes with its namespace.

    :raises LabError: a process cannot be killed.
    """
    names = namespaces.existing(site)
    records = processes.Records(site.run, site.log)
    for _ in range(_ROUNDS):
        pids = set(namespaces.members(names))
        pids.update(record.pid for record in records.all() if record.alive)
        if not pids:
            break
        processes.kill_all(pids)
    else:
        raise errors.LabError(
            'these processes of the lab cannot be killed: '
            f'{" ".join(map(str, sorted(pids)))}')
    namespaces.delete(names)
    shutil.rmtree(site.sockets, ignore_errors=True)
    logs.keep_consoles(site)
    for entry in site.state.iterdir():
        if entry.name in _KEPT:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
