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
"""Which machines the lab pretends to have, and where their state is.

Every host is a network namespace on one private bridge::

    control  10.77.0.10  database, message queue, APIs, controller daemons
    cmp1     10.77.0.11  libvirtd, nova-compute
    cmp2     10.77.0.12  libvirtd, nova-compute
    storage  10.77.0.20  tgtd, Ceph, cinder-volume
             10.77.0.21  the portal of cmp1
             10.77.0.22  the portal of cmp2
             10.77.0.23  the portal of the storage host, for Cinder's copies

A second bridge joins the servers that are on the network ``private``, and the
control host as their gateway, 192.168.77.1.

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
    """One pretended machine.

    :ivar extra_addresses: further addresses of its only interface.
    """

    name: str
    address: str
    extra_addresses: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Client(Host):
    """A host that reaches volumes by iSCSI.

    :ivar portal_address: where the storage host listens for it alone.
    """

    portal_address: str = ''

    @property
    def portal(self) -> str:
        return f'{self.portal_address}:{ISCSI_PORT}'

    @property
    def initiator(self) -> str:
        return f'{IQN_PREFIX}{self.name}'


@dataclasses.dataclass(frozen=True)
class ComputeHost(Client):
    """A hypervisor."""

    @property
    def uuid(self) -> str:
        # libvirt rejects UUIDs of one digit only, and migrations between
        # two hosts that have the same.
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, f'{self.name}.blockpath'))


COMPUTES = (
    ComputeHost('cmp1', '10.77.0.11', portal_address='10.77.0.21'),
    ComputeHost('cmp2', '10.77.0.12', portal_address='10.77.0.22'),
)
CONTROL = Host('control', '10.77.0.10')
_OWN_PORTAL = '10.77.0.23'
STORAGE = Client('storage', '10.77.0.20',
                 (*(host.portal_address for host in COMPUTES), _OWN_PORTAL),
                 portal_address=_OWN_PORTAL)
#: Hosts with an interface on the servers' network.
GUEST_HOSTS = (CONTROL, *COMPUTES)
#: Whoever has a target of its own.
CLIENTS = (*COMPUTES, STORAGE)
HOSTS: tuple[Host, ...] = (CONTROL, STORAGE, *COMPUTES)
#: The namespace that holds the bridge; no process lives in it.
SWITCH = 'switch'

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
#: Cinder's backend on files -- also the volume type, as of each backend.
FILES = 'files'
#: Cinder's backends on Ceph -> the pool of each.
POOLS = {'rbd': 'volumes', 'rbd2': 'volumes2'}
BACKENDS = (FILES, *POOLS)
#: The volume type of volumes that may be on any backend. New ones come to
#: the files, of which alone Cinder knows that there is room.
ANYWHERE = 'anywhere'
#: The volume type of those that are told with a portal at which nobody is.
DEAD_PORTAL = 'dead-portal'
NOBODY = '10.77.0.29'


def url(api: str) -> str:
    """The endpoint of an API, as hosts of the lab reach it."""
    port, path, _ = APIS[api]
    return f'http://{CONTROL.address}:{port}{path}'


def compute(name: str) -> ComputeHost:
    """:raises KeyError: no compute host has that name."""
    return {host.name: host for host in COMPUTES}[name]


def client(name: str) -> Client:
    """:raises KeyError: no host with a target of its own has that name."""
    return {host.name: host for host in CLIENTS}[name]


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
    def volumes(self) -> pathlib.Path:
        """The backing files of Cinder's volumes."""
        return self.state / 'volumes'

    @property
    def leases(self) -> pathlib.Path:
        """Neutron's ports, as the DHCP server reads them."""
        return self.state / 'neutron' / 'dhcp'

    @property
    def targets(self) -> pathlib.Path:
        """Cinder's records of its targets, with passwords."""
        return self.state / 'cinder' / 'targets'

    @property
    def ceph(self) -> pathlib.Path:
        """All of Ceph but its logs."""
        return self.state / 'ceph'

    def host(self, name: str) -> pathlib.Path:
        """What a host keeps for itself: bound over its own /etc/... """
        return self.state / 'hosts' / name

    def bin(self, program: str) -> str:
        """Path of a program of the virtual environment."""
        return str(self.venv / 'bin' / program)
