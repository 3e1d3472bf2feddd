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
"""The lab's hosts that have kernels of their own: their files, their life."""

from collections.abc import Sequence
import pathlib
import shutil
import subprocess

from blockpath.cloud import config_files
from blockpath.machine import errors
from blockpath.machine import kernel
from blockpath.machine import kernel_host
from blockpath.machine import namespaces
from blockpath.machine import processes
from blockpath.machine import topology
from blockpath.machine import userland
from blockpath.machine import wait
from blockpath import paths

#: Where Nova keeps the files of its guests; their consoles are among them.
NOVA = '/var/lib/nova'
#: For software that looks at the kernel before it loads a module.
_MODULES = {
    'storage': ('dm-thin-pool', 'dm-snapshot', 'target_core_mod',
                'target_core_iblock', 'iscsi_target_mod', 'iscsi_tcp',
                'sd_mod', 'sg'),
    'compute': ('iscsi_tcp', 'sd_mod', 'sg', 'dm-multipath',
                'dm-round-robin', 'dm-service-time', 'dm-crypt', 'cbc',
                'aes', 'xts', 'sha256', 'algif_skcipher', 'bridge', 'tun'),
}
#: The cache of the kernels that hosts run.
KERNELS = paths.CACHE / 'kernel'
#: User-mode Linux keeps a host's memory in a file here.
_MEMORY = '/dev/shm'
#: Of each disk of the storage host; the files are sparse.
_DISK_GIB = 40
_PROGRAMS = ('nova', 'cinder', 'os-brick')


def prepare(say: userland.Say) -> None:
    """Make all that hosts boot from, unless it is there.

    :raises LabError: it cannot be made, or the hosts' memory has no room
    """
    check_room(topology.KERNELS)
    found = kernel.prepare(KERNELS, say)
    for host in topology.KERNELS:
        userland_of(host, found, say)


def check_room(of: Sequence[topology.KernelHost]) -> None:
    """Check that there is room for the memory of hosts.

    :raises LabError: there is less
    """
    needed = sum(host.memory for host in of)
    try:
        room = shutil.disk_usage(_MEMORY)
    except FileNotFoundError:
        raise errors.LabError(
            f'the memory of the lab\'s hosts is in {_MEMORY}, which this '
            'machine lacks; mount a tmpfs there') from None
    total, free = room.total >> 20, room.free >> 20
    if free < needed:
        raise errors.LabError(
            f'the memory of the hosts, {needed} MiB, is in {_MEMORY}, '
            f'which has {free} MiB free; enlarge it with: '
            f'mount -o remount,size={total - free + needed}M {_MEMORY}')


def userland_of(host: topology.KernelHost, of: kernel.Kernel,
                say: userland.Say) -> userland.Userland:
    """Return the Debian system that a host boots from."""
    suite = userland.SUITES[host.suite]
    trees = config_files.tree('nova').parent
    root = userland.prepare(suite, userland.CACHE, of.modules, say)
    venv = userland.environment(
        suite, userland.CACHE, root,
        requirements=[trees / tree / 'requirements.txt'
                      for tree in _PROGRAMS],
        packages=('PyMySQL',),
        folders=[*(trees / tree for tree in _PROGRAMS), paths.ROOT], say=say)
    return userland.Userland(suite, root, venv)


def _say_nothing(text: str) -> None:
    """What is prepared is found at once."""


def _setup(site: topology.Site, host: topology.KernelHost,
           root: pathlib.Path) -> kernel_host.Setup:
    folder = site.host(host.name)
    bits = topology.NETWORK_BITS
    networks = [
        kernel_host.Network(namespaces.tap(host, network),
                            f'{address}/{bits}')
        for network, address in zip(topology.NETWORKS, host.addresses)]
    shares = {str(paths.ROOT): str(paths.ROOT)}
    shares |= {str(folder): str(folder) for folder in (site.state, site.cache)
               if not folder.is_relative_to(paths.ROOT)}
    logs = site.log / host.name
    kind = 'storage'
    disks = [site.disk(backend) for backend in topology.SCOPES]
    if isinstance(host, topology.ComputeHost):
        kind, disks = 'compute', []
        networks.append(kernel_host.Network(
            namespaces.tap(host, topology.GUESTS), bridge=topology.GUESTS))
        known = site.cache / 'libvirt' / f'{host.name}-{host.suite}'
        shares |= {str(folder / 'nova'): NOVA,
                   str(logs / 'libvirt'): '/var/log/libvirt',
                   # libvirt's knowledge of QEMU stays true.
                   str(known): '/var/cache/libvirt'}
    return kernel_host.Setup(
        host.name, root, host.memory, folder / 'root', networks, shares,
        disks, _MODULES[kind], topology.KERNELS.index(host))


def shell(site: topology.Site, host: topology.KernelHost
          ) -> kernel_host.Shell:
    """Return what runs commands on a host."""
    return kernel_host.Shell(
        host.name, host.address,
        ['nsenter', '--net=' + str(namespaces.path(
            site.netns(topology.CONTROL.name))), '--'],
        site.etc / 'ssh' / 'key', site.sockets / host.name,
        path=f'{_venv(host)}/bin')


def _venv(host: topology.KernelHost) -> pathlib.Path:
    suite = userland.SUITES[host.suite]
    return userland.venv_of(suite, userland.CACHE)


def configure(site: topology.Site) -> None:
    """Write the files that each host has of its own, and its disks."""
    site.sockets.mkdir(mode=0o700)
    key = site.etc / 'ssh' / 'key'
    key.parent.mkdir(mode=0o700)
    subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C',
                    'lab', '-f', str(key)], check=True)
    found = kernel.prepare(KERNELS, _say_nothing)
    for host in topology.KERNELS:
        system = userland_of(host, found, _say_nothing)
        setup = _setup(site, host, system.root)
        setup.write(host.uuid, key.with_suffix('.pub').read_text())
        for source, target in setup.shares.items():
            pathlib.Path(source).mkdir(parents=True, exist_ok=True)
            if target == NOVA:
                (pathlib.Path(source) / 'instances').mkdir()
        for disk in setup.disks:
            disk.parent.mkdir(exist_ok=True)
            with open(disk, 'xb') as file:
                file.truncate(_DISK_GIB << 30)


def boot(site: topology.Site, host: topology.KernelHost,
         records: processes.Records) -> None:
    """Start a host and return when its system is up.

    :raises LabError: it does not come up; with its kernel's last words
    """
    found = kernel.prepare(KERNELS, _say_nothing)
    system = userland_of(host, found, _say_nothing)
    setup = _setup(site, host, system.root)
    switch = namespaces.path(site.netns(topology.SWITCH))
    (site.sockets / host.name).unlink(missing_ok=True)
    try:
        process = records.spawn(
            host.name, ['nsenter', f'--net={switch}', '--',
                        *setup.command(found.binary, site.sockets / 'uml')],
            {'PATH': '/usr/sbin:/usr/bin:/sbin:/bin',
             'HOME': str(site.sockets)})
    except errors.ServiceDied:
        raise kernel_host.explain_end(
            host.name, site.log / f'{host.name}.log') from None
    remote = shell(site, host)

    def is_up() -> bool:
        if not process.alive:
            raise kernel_host.explain_end(host.name,
                                          pathlib.Path(process.log))
        state = remote.run(['systemctl', 'is-system-running', '--wait'])
        return state.stdout.strip() in ('running', 'degraded')

    wait.until(is_up, f'host {host.name} to start (its log is '
               f'{process.log})', kernel_host.BOOT, 0.3)


def is_up(name: str, records: processes.Records) -> bool:
    """Whether a host's kernel runs."""
    process = records.get(name)
    return bool(process and process.alive)


def kill(name: str, records: processes.Records) -> bool:
    """Have a host end as by a power cut.

    :returns: whether it ran
    """
    process = records.get(name)
    if process is None:
        return False
    processes.kill(process)
    records.forget(name)
    return True
