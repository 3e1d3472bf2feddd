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
"""Network namespaces, and who lives in them."""

from collections.abc import Callable
from collections.abc import Iterable
import concurrent.futures
import ctypes
import os
import pathlib
import subprocess
from typing import TypeVar

from blockpath.machine import errors
from blockpath.machine import topology

T = TypeVar('T')

_FOLDER = pathlib.Path('/run/netns')
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def ip(*commands: str) -> None:
    """Run several commands of ip(8) in one process.

    :raises LabError: one failed; with what ip says.
    """
    done = subprocess.run(['ip', '-batch', '-'], text=True,
                          input='\n'.join(commands) + '\n',
                          capture_output=True)
    if done.returncode:
        raise errors.LabError(
            'the lab\'s network could not be made (it needs root and '
            f'network namespaces): {" ".join(done.stderr.split())}')


def path(name: str) -> pathlib.Path:
    return _FOLDER / name


def create(site: topology.Site) -> None:
    """Make the hosts' namespaces and the bridges that join them."""
    switch = site.netns(topology.SWITCH)
    ip(f'netns add {switch}', *(f'netns add {site.netns(host.name)}'
                                for host in topology.HOSTS))
    _ip_in(switch, 'link set lo up')
    _join(site, 'br0', 'eth0', topology.HOSTS)
    for host in topology.HOSTS:
        addresses = (host.address, *host.extra_addresses)
        _ip_in(site.netns(host.name), 'link set lo up', 'link set eth0 up',
               *(f'addr add {address}/{topology.NETWORK_BITS} dev eth0'
                 for address in addresses))
    _join_guests(site)


def _join_guests(site: topology.Site) -> None:
    """Make the servers' network: its bridges, and its gateway."""
    _join(site, topology.GUESTS, topology.GUESTS, topology.GUEST_HOSTS)
    for compute in topology.COMPUTES:
        _ip_in(site.netns(compute.name),
               f'link set {topology.GUESTS} name uplink',
               f'link add {topology.GUESTS} type bridge',
               f'link set uplink master {topology.GUESTS} up',
               f'link set {topology.GUESTS} up')
    _ip_in(site.netns(topology.CONTROL.name),
           f'link set {topology.GUESTS} up',
           *(f'addr add {address} dev {topology.GUESTS}' for address in
             (f'{topology.GATEWAY}/24', f'{topology.METADATA}/32')))


def _join(site: topology.Site, bridge: str, interface: str,
          hosts: Iterable[topology.Host]) -> None:
    """Give each host an interface, with its other end on a new bridge."""
    switch = site.netns(topology.SWITCH)
    ends = {host: f'{bridge[0]}-{host.name}' for host in hosts}
    _ip_in(switch, f'link add {bridge} type bridge', f'link set {bridge} up')
    ip(*(f'link add {end} netns {switch} type veth '
         f'peer name {interface} netns {site.netns(host.name)}'
         for host, end in ends.items()))
    _ip_in(switch, *(f'link set {end} master {bridge} up'
                     for end in ends.values()))


def _ip_in(name: str, *commands: str) -> None:
    run_in(name, ip, *commands)


def existing(site: topology.Site) -> list[str]:
    """Names of the lab's namespaces that exist."""
    if not _FOLDER.exists():
        return []
    return sorted(entry.name for entry in _FOLDER.iterdir()
                  if entry.name.startswith(f'{site.prefix}-'))


def delete(names: Iterable[str]) -> None:
    for name in names:
        ip(f'netns del {name}')


def members(names: Iterable[str]) -> dict[int, str]:
    """Processes living in namespaces: id -> namespace.

    The calling process is left out, wherever it lives.
    """
    inodes: dict[int, str] = {}
    for name in names:
        try:
            inodes[os.stat(path(name)).st_ino] = name
        except FileNotFoundError:
            continue
    found = {}
    for entry in os.scandir('/proc'):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            inode = os.stat(f'/proc/{entry.name}/ns/net').st_ino
        except OSError:
            # It has ended, or is none of ours: a container's first process
            # may not be looked at.
            continue
        if inode in inodes:
            found[int(entry.name)] = inodes[inode]
    return found


def enter(name: str) -> None:
    """Move the calling thread, and those it starts, into a namespace.

    :raises LabError: there is no such namespace.
    """
    try:
        fd = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise errors.LabError(
            'the lab is not up; start it with: blockpath lab up') from None
    try:
        if _libc.setns(fd, _CLONE_NEWNET):
            raise errors.LabError(
                f'namespace {name} can not be entered: '
                f'{os.strerror(ctypes.get_errno())}')
    finally:
        os.close(fd)


def run_in(name: str, function: Callable[..., T], *args: object) -> T:
    """Call a function in a thread that lives in a namespace.

    Sockets that it makes stay in that namespace, and may be handed out.
    """
    def call() -> T:
        enter(name)
        return function(*args)

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(call).result()
