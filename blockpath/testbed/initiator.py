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
"""Run os-brick on the initiator, and list its leftovers."""

import hashlib
import importlib
import mmap
import os
import pathlib
import random
import subprocess
import sys
import time
from typing import Any

import os_brick  # noqa: F401  # once, for all the calls to come
from os_brick.initiator import connector  # noqa: F401
from oslo_concurrency import lockutils
from oslo_config import cfg
from oslo_privsep import priv_context

LOCKS = '/run/testbed/locks'
BLOCK = 64 << 10
CALLS = pathlib.Path('/run/testbed/calls')


def _module(name: str) -> Any:
    return importlib.import_module(f'os_brick{name}')


def _connector(protocol: str, multipath: bool, tree: str = '',
               settings: dict[str, Any] | None = None,
               **options: Any) -> Any:
    """Return a connector of os-brick.

    :param tree: of an os-brick other than the series
    :param settings: options of its own in the configuration
    """
    if tree:
        for name in [name for name in sys.modules
                     if name.partition('.')[0] == 'os_brick']:
            del sys.modules[name]
        sys.path.insert(0, tree)
    os.makedirs(LOCKS, exist_ok=True)
    cfg.CONF([], default_config_files=[])
    lockutils.set_defaults(LOCKS)
    _module('').setup(cfg.CONF)
    for name, value in (settings or {}).items():
        cfg.CONF.set_override(name, value, 'os_brick')
    # The real daemon with its few capabilities, but forked: a second Python
    # starts slowly here.
    _module('.privileged').default.start(priv_context.Method.FORK)
    return _module('.initiator.connector').InitiatorConnector.factory(
        protocol, 'sudo', use_multipath=multipath, **options)


def properties(address: str, multipath: bool) -> dict[str, Any]:
    """Return the connector properties that Nova sends to Cinder."""
    _connector('ISCSI', multipath)
    return _module('.initiator.connector').get_connector_properties(
        'sudo', address, multipath, enforce_multipath=True)


def connect(data: dict[str, Any], multipath: bool = False,
            protocol: str = 'ISCSI', **options: Any) -> dict[str, Any]:
    """Attach a volume; return its device, with the ``seconds`` taken."""
    made = _connector(protocol, multipath, **options)
    began = time.monotonic()
    device = made.connect_volume(data)
    return device | {'seconds': time.monotonic() - began}


def disconnect(data: dict[str, Any], device: dict[str, Any] | None,
               multipath: bool = False, protocol: str = 'ISCSI',
               **options: Any) -> None:
    _connector(protocol, multipath, **options).disconnect_volume(
        data, device, force=device is None)


def extend(data: dict[str, Any], multipath: bool = False) -> int:
    """Extend an attached volume; return its size in bytes."""
    return _connector('ISCSI', multipath).extend_volume(data)


def cycle(volumes: list[dict[str, Any]], seed: int,
          mib: int) -> dict[str, Any]:
    """Attach volumes with multipathing, write and read them, detach them.

    :returns: ``attach`` and ``detach`` (seconds, of each volume), ``wrong``
        (how many did not hold what was written), ``failed`` (messages)
    """
    made = _connector('ISCSI', True)
    result: dict[str, Any] = {'attach': [], 'detach': [], 'wrong': 0,
                              'failed': []}
    devices: list[dict[str, Any] | None] = []
    for data in volumes:
        began = time.monotonic()
        try:
            devices.append(made.connect_volume(data))
            result['attach'].append(time.monotonic() - began)
        except Exception as error:
            devices.append(None)
            result['failed'].append(f'{type(error).__name__}: {error}')
    for number, device in enumerate(devices):
        if device:
            written = fill(device['path'], seed + number, mib)
            result['wrong'] += written != digest(device['path'], mib)
    for data, device in zip(volumes, devices):
        began = time.monotonic()
        try:
            made.disconnect_volume(data, device, force=device is None)
            result['detach'].append(time.monotonic() - began)
        except Exception as error:
            result['failed'].append(f'{type(error).__name__}: {error}')
    return result


def fill(path: str, seed: int, mib: int) -> str:
    """Write random data from the beginning; return its SHA-256."""
    data = random.Random(seed).randbytes(mib << 20)
    with open(path, 'r+b') as file:
        file.write(data)
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def digest(path: str, mib: int) -> str:
    """Return the SHA-256 of the first MiB, read from the device."""
    hasher = hashlib.sha256()
    with open(path, 'rb') as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for _ in range(mib):
            hasher.update(file.read(1 << 20))
    return hasher.hexdigest()


def write_until(stop: str, path: str, mib: int, seed: int) -> dict[str, Any]:
    """Write blocks to the first MiB, one at a time and past the cache.

    :param stop: a file; the writing ends when it is there and all MiB are
        written
    :returns: blocks written, ``longest`` (seconds that one took), and
        ``sha256`` of the MiB as they must be in the end.
    """
    source = random.Random(seed)
    kept = bytearray(mib << 20)
    blocks, longest = 0, 0.0
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, BLOCK) as buffer:  # aligned, as O_DIRECT wants
            while not os.path.exists(stop) or blocks * BLOCK < len(kept):
                data = source.randbytes(BLOCK)
                at = blocks * BLOCK % len(kept)
                buffer[:] = data
                began = time.monotonic()
                if os.pwrite(fd, buffer, at) != BLOCK:
                    raise OSError(f'short write at {at}')
                longest = max(longest, time.monotonic() - began)
                kept[at:at + BLOCK] = data
                blocks += 1
        os.fsync(fd)
    finally:
        os.close(fd)
    return {'blocks': blocks, 'longest': longest,
            'sha256': hashlib.sha256(kept).hexdigest()}


def sessions() -> list[tuple[str, str]]:
    """Return the portal's address and the iface of each session."""
    root = pathlib.Path('/sys/class')
    return [((root / f'iscsi_connection/connection{path.name[7:]}:0' /
              'persistent_address').read_text().strip(),
             (path / 'ifacename').read_text().strip())
            for path in (root / 'iscsi_session').glob('session*')]


def found_in_logs(secret: str) -> list[str]:
    """Return the logs, and the world-readable files, that hold a secret."""
    sought = secret.encode()
    found = []
    for root in ('/run/testbed', '/var/log', '/tmp', '/var/tmp', '/etc/iscsi',
                 '/run/lock'):
        for path in pathlib.Path(root).rglob('*'):
            if (path.is_file() and sought in path.read_bytes() and
                    (root != '/etc/iscsi' or path.stat().st_mode & 0o077)):
                found.append(str(path))
    journal = subprocess.run(['journalctl', '--no-pager'], check=True,
                             capture_output=True).stdout
    return found + ['journal'] * (sought in journal)


def leftovers() -> dict[str, list[str]]:
    """Return the leftovers of attached volumes, by kind."""
    return {
        'sessions': _names('/sys/class/iscsi_session', '*'),
        'nodes': _names('/etc/iscsi/nodes', '**/*'),
        'discovered': _names('/etc/iscsi/send_targets', '*'),
        'ifaces': _names('/etc/iscsi/ifaces', '*'),
        'disks': _names('/sys/class/scsi_disk', '*'),
        'maps': subprocess.run(
            ['dmsetup', 'ls', '--target', 'multipath'], check=True,
            capture_output=True, text=True).stdout.replace(
                'No devices found', '').splitlines(),
        'by-path': _names('/dev/disk/by-path', '*iscsi*')}


def _names(folder: str, pattern: str) -> list[str]:
    root = pathlib.Path(folder)
    return sorted(str(path.relative_to(root)) for path in root.glob(pattern))


def calls(begin: int = 0) -> list[list[str]]:
    """Return the traced calls, each with name and arguments."""
    if not CALLS.exists():
        return []
    lines = CALLS.read_text().split('\n')[begin:-1]
    return [line.split('\x1f')[2:] for line in lines]


def scan(secret: str, seconds: float, stop: str = '') -> list[str]:
    """Return the programs that have the secret on their command line.

    Looks at all processes over and over for that long. It is kept out of
    this process's own command line by coming through a socket.

    :param stop: a file; the looks end when it is there, and it is removed
    """
    found = set()
    sought = secret.encode()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if stop and os.path.exists(stop):
            os.unlink(stop)
            break
        for entry in pathlib.Path('/proc').iterdir():
            if not entry.name.isdigit():
                continue
            try:
                line = (entry / 'cmdline').read_bytes()
            except OSError:
                continue  # it has ended
            if sought in line:
                found.add(line.split(b'\0')[0].decode())
    return sorted(found)
