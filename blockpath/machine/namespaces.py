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
_RETRIES = pathlib.Path('/proc/sys/net/ipv4/tcp_retries2')
#: A call to a host whose kernel has gone fails in 25 s, not in 15 minutes.
_RETRIES_OF_A_CLIENT = 6
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
    """Make the namespaces, and the bridges that join the hosts."""
    switch = site.netns(topology.SWITCH)
    ip(f'netns add {switch}', *(f'netns add {site.netns(host.name)}'
                                for host in topology.NAMESPACES))
    _ip_in(switch, 'link set lo up')
    for network, address in zip(topology.NETWORKS, topology.SWITCHES):
        _ip_in(switch, f'link add {network} type bridge',
               f'link set {network} up',
               f'addr add {address}/{topology.NETWORK_BITS} dev {network}')
    _join(site, topology.NETWORKS[0], 'eth0', topology.NAMESPACES)
    for host in topology.NAMESPACES:
        _ip_in(site.netns(host.name), 'link set lo up', 'link set eth0 up',
               f'addr add {host.address}/{topology.NETWORK_BITS} dev eth0')
    for kernel in topology.KERNELS:
        for network in topology.NETWORKS:
            _add_tap(switch, tap(kernel, network), network)
    _join_guests(site)
    run_in(site.netns(topology.CONTROL.name), _RETRIES.write_text,
           str(_RETRIES_OF_A_CLIENT))


def _join_guests(site: topology.Site) -> None:
    """Make the servers' network and its gateway."""
    switch = site.netns(topology.SWITCH)
    _ip_in(switch, f'link add {topology.GUESTS} type bridge',
           f'link set {topology.GUESTS} up')
    _join(site, topology.GUESTS, topology.GUESTS, (topology.CONTROL,))
    for compute in topology.COMPUTES:
        _add_tap(switch, tap(compute, topology.GUESTS), topology.GUESTS)
    _ip_in(site.netns(topology.CONTROL.name),
           f'link set {topology.GUESTS} up',
           *(f'addr add {address} dev {topology.GUESTS}' for address in
             (f'{topology.GATEWAY}/24', f'{topology.METADATA}/32')))


def tap(host: topology.KernelHost, network: str) -> str:
    """Return the name of the tap that is a host's interface."""
    return f'{network[0]}-{host.name}'


def _add_tap(switch: str, name: str, bridge: str) -> None:
    _ip_in(switch, f'tuntap add dev {name} mode tap',
           f'link set {name} master {bridge} up')


def _join(site: topology.Site, bridge: str, interface: str,
          hosts: Iterable[topology.Host]) -> None:
    """Give each host an interface, with its other end on a bridge."""
    switch = site.netns(topology.SWITCH)
    ends = {host: f'{bridge[0]}-{host.name}' for host in hosts}
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
