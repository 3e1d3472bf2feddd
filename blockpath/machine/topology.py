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
"""Which hosts the lab has, their addresses, and where their state is.

The control plane and Ceph live in network namespaces. The storage host and
the compute hosts have kernels of their own::

    control  10.77.0.10  database, message queue, APIs, controller daemons
    ceph     10.77.0.30  Ceph
    storage  10.77.0.20  10.78.0.20  LVM, LIO, cinder-volume
    cmp1     10.77.0.11  10.78.0.11  libvirtd, nova-compute, an initiator
    cmp2     10.77.0.12  10.78.0.12  libvirtd, nova-compute, an initiator

Two bridges are the networks 10.77.0.0/24 and 10.78.0.0/24: the storage host
has a portal on each. A third one joins the servers that are on the network
``private``, and the control host as their gateway, 192.168.77.1.

The addresses are the same in every lab: nothing of them is visible outside.
The names of the namespaces are machine-wide, so they carry a digest of the
checkout's path and two checkouts may each run a lab.
"""

import dataclasses
import functools
import hashlib
import pathlib
import uuid

from blockpath import paths

NETWORK_BITS = 24
REGION = 'RegionOne'
ISCSI_PORT = 3260
IQN_PREFIX = 'iqn.2026-01.lab.blockpath:'


@dataclasses.dataclass(frozen=True)
class Host:
    """A host of the lab, with its address on the first network."""

    name: str
    address: str


@dataclasses.dataclass(frozen=True)
class KernelHost(Host):
    """A host with a kernel of its own.

    :ivar second: its address on the second network
    :ivar suite: the Debian release that it runs
    :ivar memory: MiB
    """

    second: str = ''
    suite: str = 'bookworm'
    memory: int = 1024

    @property
    def addresses(self) -> tuple[str, str]:
        return self.address, self.second

    @property
    def initiator(self) -> str:
        """The name of its initiator."""
        return f'{IQN_PREFIX}{self.name}'

    @property
    def portals(self) -> tuple[str, str]:
        """Where it listens for initiators, if it does."""
        return (f'{self.address}:{ISCSI_PORT}', f'{self.second}:{ISCSI_PORT}')

    @property
    def uuid(self) -> str:
        # libvirt rejects UUIDs of one digit only, and migrations between
        # two hosts that have the same.
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, f'{self.name}.blockpath'))


@dataclasses.dataclass(frozen=True)
class ComputeHost(KernelHost):
    """A hypervisor."""


#: Two Debian releases: a guest crosses distributions when it moves.
COMPUTES = (
    ComputeHost('cmp1', '10.77.0.11', '10.78.0.11', memory=1536),
    ComputeHost('cmp2', '10.77.0.12', '10.78.0.12', 'trixie', memory=1536),
)
CONTROL = Host('control', '10.77.0.10')
CEPH = Host('ceph', '10.77.0.30')
STORAGE = KernelHost('storage', '10.77.0.20', '10.78.0.20')
#: Hosts that are network namespaces of this machine.
NAMESPACES = (CONTROL, CEPH)
KERNELS: tuple[KernelHost, ...] = (STORAGE, *COMPUTES)
HOSTS: tuple[Host, ...] = (*NAMESPACES, *KERNELS)
#: The namespace that holds the bridges, and the hosts with kernels.
SWITCH = 'switch'
#: The networks of the hosts: a bridge in the switch.
NETWORKS = ('first', 'second')
#: The switch's own address on each, for portals that hang.
SWITCHES = ('10.77.0.1', '10.78.0.1')

#: The servers' own network: a bridge of that name on each host that is on it.
GUESTS = 'guests'
GUEST_CIDR = '192.168.77.0/24'
GATEWAY = '192.168.77.1'
#: Where servers ask what they are.
METADATA = '169.254.169.254'

#: API -> (port, path of its endpoint in the catalog, service type).
APIS = {
    'keystone': (5000, '/v3', 'identity'),
    'placement': (8778, '', 'placement'),
    'glance': (9292, '', 'image'),
    'nova': (8774, '/v2.1', 'compute'),
    'cinder': (8776, '/v3', 'block-storage'),
    'neutron': (9696, '', 'network'),
}
DATABASE_PORT = 3306
#: In the control host's own /run: a socket's path must be short, that of a
#: checkout need not be.
DATABASE_SOCKET = '/run/mariadb.sock'
MESSAGE_PORT = 5672
#: The first of those that Ceph listens at.
CEPH_PORT = 3300
#: Cinder's backends on LVM -> the scope of their iSCSI targets. The name of a
#: backend is the name of its volume group and of its volume type, too.
LVM = 'lvm'
LVM_BY_VOLUME = 'lvm-by-volume'
SCOPES = {LVM: 'host', LVM_BY_VOLUME: 'volume'}
#: Cinder's backends on Ceph -> the pool of each.
POOLS = {'rbd': 'volumes', 'rbd2': 'volumes2'}
BACKENDS = (*SCOPES, *POOLS)
#: The volume type of volumes that may be on any backend.
ANYWHERE = 'anywhere'
#: The volume type of volumes that hosts encrypt by dm-crypt.
ENCRYPTED = 'encrypted'


def url(api: str) -> str:
    """The endpoint of an API, as hosts of the lab reach it."""
    port, path, _ = APIS[api]
    return f'http://{CONTROL.address}:{port}{path}'


def compute(name: str) -> ComputeHost:
    """:raises KeyError: no compute host has that name."""
    return {host.name: host for host in COMPUTES}[name]


def kernel(name: str) -> KernelHost:
    """:raises KeyError: no host with a kernel of its own has that name."""
    return {host.name: host for host in KERNELS}[name]


def is_kernel(name: str) -> bool:
    """Whether a host has a kernel of its own."""
    return any(host.name == name for host in KERNELS)


@dataclasses.dataclass(frozen=True)
class Site:
    """The files of one lab.

    :ivar state: its folder; all else is below.
    :ivar cache: what outlives it: databases just created, libvirt's
        knowledge of QEMU.
    """

    state: pathlib.Path = paths.LAB
    cache: pathlib.Path = paths.CACHE / 'lab'
    venv: pathlib.Path = paths.VENV

    @functools.cached_property
    def prefix(self) -> str:
        digest = hashlib.sha256(str(self.state.absolute()).encode())
        return f'bp-{digest.hexdigest()[:4]}'

    def netns(self, host: str) -> str:
        """Name of a host's network namespace."""
        return f'{self.prefix}-{host}'

    @property
    def etc(self) -> pathlib.Path:
        """Rendered configuration, with passwords: mode 0700."""
        return self.state / 'etc'

    @property
    def log(self) -> pathlib.Path:
        return self.state / 'log'

    @property
    def run(self) -> pathlib.Path:
        """A record of each process that was started."""
        return self.state / 'run'

    @property
    def sockets(self) -> pathlib.Path:
        """For sockets: the path of the checkout may be too long for them."""
        return pathlib.Path('/run') / self.prefix

    @property
    def leases(self) -> pathlib.Path:
        """Neutron's ports, as the DHCP server reads them."""
        return self.state / 'neutron' / 'dhcp'

    @property
    def ceph(self) -> pathlib.Path:
        """All of Ceph but its logs."""
        return self.state / 'ceph'

    def host(self, name: str) -> pathlib.Path:
        """What a host keeps for itself."""
        return self.state / 'hosts' / name

    def disk(self, backend: str) -> pathlib.Path:
        """The disk of the storage host that holds a volume group."""
        return self.state / 'disks' / backend

    def bin(self, program: str) -> str:
        """Path of a program of the virtual environment."""
        return str(self.venv / 'bin' / program)
