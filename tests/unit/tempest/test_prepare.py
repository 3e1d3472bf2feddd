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
"""What a lab has while tempest runs, and what of that it keeps."""

import base64
from collections.abc import Mapping
from collections.abc import Sequence
import configparser
import dataclasses
import socket
import stat
import subprocess
import types
from typing import Any
from xml.etree import ElementTree

import libvirt

from blockpath.cloud import fault_injection
from blockpath.cloud import lab_hosts
from blockpath.cloud import services
from blockpath.daemons import ceph
from blockpath.machine import credentials
from blockpath.machine import errors
from blockpath.machine import kernel_host
from blockpath.machine import namespaces
from blockpath.machine import topology
from blockpath.tempest import config
from blockpath.tempest import prepare
from tests.unit import lab_base


class StorageHost(kernel_host.Shell):
    """Runs commands in a namespace of this machine."""

    def command(self, argv: Sequence[str],
                env: Mapping[str, str] | None = None) -> list[str]:
        return ['ip', 'netns', 'exec', self.name, *argv]


class Hosts(lab_hosts.Hosts):
    """The lab's hosts, without the services of theirs."""

    def __init__(self, daemons: services.Daemons) -> None:
        super().__init__(daemons)
        self.restarted: list[str] = []

    def restart(self, service: str) -> None:
        self.restarted.append(service)


class TestConfigured(lab_base.LabTest):

    NETWORK = {'storage': topology.STORAGE, 'cmp1': topology.COMPUTES[0]}

    def setUp(self) -> None:
        super().setUp()
        lab_base.need_namespaces(self)
        self.network = [self.site.netns(host) for host in self.NETWORK]
        for name in self.network:
            self.ip(f'netns add {name}')
            self.addCleanup(self.ip, f'netns delete {name}')
        storage_host, compute_host = self.network
        self.ip(f'link add vec0 netns {storage_host} type veth '
                f'peer name vec0 netns {compute_host}')
        for name, member in zip(self.network, self.NETWORK.values()):
            self.ip(f'-n {name} link set lo up')
            self.ip(f'-n {name} link set vec0 up')
            self.ip(f'-n {name} address add {member.address}/24 dev vec0')
        self.before = self.settings()
        daemons = services.Daemons(self.site)
        storage = fault_injection.Storage(daemons)
        storage._shell = StorageHost(storage_host, '', (), self.folder,
                                     self.folder)
        self.hosts = Hosts(daemons)
        self.lab: Any = types.SimpleNamespace(
            storage=storage, hosts=self.hosts)
        self.initiators = {'cmp1': 'host', 'cmp2': 'qemu'}
        for host, initiator in self.initiators.items():
            self.write(host, 'nova.conf',
                       f'[libvirt]\niscsi_initiator = {initiator}\nlast = 1\n')
        self.write('storage', 'cinder.conf', ''.join(
            f'[{backend}]\ntarget_ip_address = {topology.STORAGE.address}\n'
            for backend in topology.SCOPES))

    def ip(self, command: str) -> str:
        return subprocess.run(['ip', *command.split()], check=True,
                              stdout=subprocess.PIPE, text=True).stdout

    def settings(self) -> list[str]:
        """The storage host's addresses and rules."""
        return [self.ip(f'-n {self.network[0]} -4 -oneline {what}')
                for what in ('address', 'rule')]

    def answers(self, address: str) -> bool:
        """Whether the storage host's listener answers a compute host."""
        storage, compute = self.network
        portal = address, topology.ISCSI_PORT
        with namespaces.run_in(storage, socket.create_server, portal):
            try:
                namespaces.run_in(compute, socket.create_connection, portal,
                                  0.5).close()
            except TimeoutError:
                return False
            return True

    def write(self, host: str, name: str, text: str) -> None:
        path = self.site.etc / host / name
        path.parent.mkdir()
        path.write_text(text)

    def options(self, host: str, name: str) -> configparser.ConfigParser:
        # As for the services, the last line counts, and [DEFAULT] is for no
        # other section.
        found = configparser.ConfigParser(strict=False,
                                          default_section='none')
        found.read(self.site.etc / host / name)
        return found

    def now(self) -> dict[str, str]:
        return {host: self.options(host, 'nova.conf')['libvirt'][
            'iscsi_initiator'] for host in self.initiators}

    def check_as_before(self) -> None:
        self.assertEqual(self.initiators, self.now())
        cinder = self.options('storage', 'cinder.conf')
        for backend in topology.SCOPES:
            self.assertEqual({'target_ip_address': topology.STORAGE.address},
                             dict(cinder[backend]))
        self.assertEqual(self.before, self.settings())

    def test_initiators(self) -> None:
        for initiator, changed in (('host', 'cmp2'), ('qemu', 'cmp1')):
            self.hosts.restarted.clear()
            with prepare.configured(self.lab, initiator):
                self.assertEqual(dict.fromkeys(self.hosts.names, initiator),
                                 self.now())
                self.assertEqual(
                    ['cinder-volume', f'nova-compute-{changed}'],
                    self.hosts.restarted)
            # The services run as they did, not only their files are back.
            self.assertEqual(
                [f'nova-compute-{changed}', 'cinder-volume'],
                self.hosts.restarted[2:])
            self.check_as_before()

    def test_first_portal_of_one_backend_is_dead(self) -> None:
        with prepare.configured(self.lab, 'host'):
            cinder = self.options('storage', 'cinder.conf')
            dead = cinder[prepare.DEAD_PORTAL]['target_ip_address']
            self.assertNotIn(dead, [host.address for host in topology.HOSTS])
            self.assertTrue(self.answers(topology.STORAGE.address))
            self.assertFalse(self.answers(dead))
            self.assertEqual(topology.STORAGE.second, cinder[
                prepare.DEAD_PORTAL]['target_secondary_ip_addresses'])
            for backend in {*topology.SCOPES} - {prepare.DEAD_PORTAL}:
                self.assertEqual(topology.STORAGE.address,
                                 cinder[backend]['target_ip_address'])
        self.check_as_before()

    def test_copies_that_are_interrupted_are_slow(self) -> None:
        """Those of the backend: Cinder reads no such limit in [DEFAULT]."""
        with prepare.configured(self.lab, 'host'):
            cinder = self.options('storage', 'cinder.conf')
            limit = int(cinder[prepare.BACKENDS[0]]['volume_copy_bps_limit'])
            # A command that kills a service takes some seconds.
            self.assertLess(limit, (1 << 30) / 5)

    def test_after_a_run_that_was_killed(self) -> None:
        killed = self.lab.storage.added_dead_portal()
        killed.__enter__()
        with prepare.configured(self.lab, 'host'):
            pass
        self.check_as_before()

    def test_as_before_after_a_failure(self) -> None:
        def fail() -> None:
            with prepare.configured(self.lab, 'qemu'):
                raise errors.LabError('a test failed')

        self.assertRaises(errors.LabError, fail)
        self.check_as_before()


class Hypervisor:
    """libvirt's secrets."""

    def __init__(self) -> None:
        self.secrets: dict[str, Any] = {}

    def secretLookupByUUIDString(self, name: str) -> Any:
        if name not in self.secrets:
            raise libvirt.libvirtError('no such secret')
        return self.secrets[name]

    def secretDefineXML(self, xml: str) -> Any:
        parsed = ElementTree.fromstring(xml)
        name = parsed.findtext('uuid')
        assert name and name not in self.secrets
        secret = types.SimpleNamespace(usage=parsed.findtext('usage/name'))
        secret.setValue = lambda value: setattr(secret, 'value', value)
        self.secrets[name] = secret
        return secret


@dataclasses.dataclass
class Resource:
    """A volume type, a flavor or an image."""

    id: str


class Cloud:
    """Finds what it has made; ``made`` is name -> arguments."""

    def __init__(self) -> None:
        self.made: dict[str, dict[str, Any]] = {}
        self.compute = self.block_storage = self.image = self

    def find(self, name: str) -> Resource | None:
        return Resource(f'id-{name}') if name in self.made else None

    def make(self, name: str, **arguments: Any) -> Resource:
        assert name not in self.made, name
        self.made[name] = arguments
        return Resource(f'id-{name}')

    find_type = find_flavor = find_image = find
    create_type = create_flavor = create_image = make


class TestPrepare(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.passwords = credentials.Passwords()
        self.passwords.save(self.site.state / 'passwords.json')
        self.cluster = ceph.Cluster(self.site.ceph,
                                    topology.CEPH.address, topology.CEPH_PORT)
        self.site.ceph.mkdir()
        self.key = ceph.make_key()
        self.cluster.write_keyrings({
            name: self.key if name == f'client.{ceph.USER}'
            else ceph.make_key() for name in ceph._CAPABILITIES})
        self.hypervisors = {host.name: Hypervisor()
                            for host in topology.COMPUTES}
        self.cloud = Cloud()
        # It takes a minute to build.
        self.cloud.make(prepare.IMAGE)
        self.started = 0
        self.lab: Any = types.SimpleNamespace(
            site=self.site, cloud=self.cloud, hosts=types.SimpleNamespace(
                names=lab_hosts.Hosts.names,
                hypervisor=self.hypervisors.__getitem__),
            daemons=types.SimpleNamespace(
                ceph=self.cluster, start_extras=self.start))

    def start(self) -> None:
        self.started += 1

    def options(self) -> configparser.ConfigParser:
        folder = prepare.prepare(self.lab, print)
        path = folder / 'tempest.conf'
        self.assertIn(self.passwords.admin, path.read_text())
        for each, mode in ((folder, 0o700), (path, 0o600)):
            self.assertEqual(mode, stat.S_IMODE(each.stat().st_mode))
        found = configparser.ConfigParser(default_section='none',
                                          interpolation=None)
        found.read(path)
        return found

    def test_tempest_is_given_what_the_lab_has(self) -> None:
        options = self.options()
        self.assertEqual(1, self.started)
        names = options['volume']['backend_names'].split(',')
        # A backend on iSCSI and one on Ceph, between which volumes move.
        self.assertEqual([[True, False], [False, True]], [
            [name in topology.SCOPES, name in topology.POOLS]
            for name in names])
        ours = options['blockpath']
        self.assertEqual(names, [ours['iscsi_volume_type'],
                                 ours['rbd_volume_type']])
        self.assertEqual('host', topology.SCOPES[names[0]])
        self.assertIn(ours['dead_portal_volume_type'], topology.SCOPES)
        self.assertNotIn(ours['dead_portal_volume_type'], names)
        self.assertEqual(f'id-{prepare.IMAGE}',
                         options['compute']['image_ref'])

    def test_options_of_the_plugin_exist(self) -> None:
        ours = self.options()['blockpath']
        known = {opt.name: opt for opt in config.OPTS}
        for name in ours:
            self.assertIn(name, known)
        # The lab can run all of the plugin's tests.
        for name, opt in known.items():
            if opt.default is False:
                self.assertTrue(ours.getboolean(name), name)

    def test_twice_changes_nothing(self) -> None:
        first = self.options()
        made = dict(self.cloud.made)
        self.assertEqual(first, self.options())
        self.assertEqual(made, self.cloud.made)
        self.assertEqual('<is> True', made[prepare.MULTIATTACH][
            'extra_specs']['multiattach'])

    def test_guests_of_each_host_may_use_ceph(self) -> None:
        for _ in 'twice':
            prepare.prepare(self.lab, print)
        for hypervisor in self.hypervisors.values():
            [(name, secret)] = hypervisor.secrets.items()
            self.assertEqual(self.cluster.identity.fsid, name)
            self.assertEqual(f'client.{ceph.USER} secret', secret.usage)
            self.assertEqual(base64.b64decode(self.key), secret.value)
