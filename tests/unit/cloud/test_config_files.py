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
"""Configuration: complete, private, and each host its own."""

import configparser
import dataclasses
import os
import pathlib
import re
import stat

from blockpath.cloud import config_files
from blockpath.cloud import hosts
from blockpath.cloud import services
from blockpath.cloud import start
from blockpath.machine import credentials
from blockpath.machine import tasks
from blockpath.machine import topology
from blockpath.machine import userland
from tests.unit import lab_base


def read(path: pathlib.Path) -> configparser.ConfigParser:
    config = configparser.ConfigParser(interpolation=None, strict=False)
    config.read(path)
    return config


class RenderTest(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.passwords = credentials.Passwords()
        config_files.Renderer(self.site, self.passwords).all()

    def own(self, host: topology.Host, path: str) -> pathlib.Path:
        """Return a file that a host has of its own."""
        part = 'root/etc' if topology.is_kernel(host.name) else 'etc'
        return self.site.host(host.name) / part / path


class TestSecrets(RenderTest):

    def test_files_with_passwords_are_private(self) -> None:
        secrets = dataclasses.astuple(self.passwords)
        holders = set()
        for path in self.site.state.rglob('*'):
            if path.is_file() and any(secret in path.read_text()
                                      for secret in secrets):
                holders.add(path.relative_to(self.site.state).parts[:2])
                self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode),
                                 str(path))
        # Not in what hosts with kernels have over their userland.
        self.assertEqual({('etc', name) for name in
                          ('control', 'storage', 'cmp1', 'cmp2')}, holders)

    def test_no_password_on_a_command_line(self) -> None:
        secrets = dataclasses.astuple(self.passwords)
        for service in services.table(self.site).values():
            line = ' '.join((*service.argv, *service.env.values()))
            for secret in secrets:
                self.assertNotIn(secret, line)

    def test_passwords_differ_between_labs(self) -> None:
        other = dataclasses.astuple(credentials.Passwords())
        self.assertEqual(set(), set(other) &
                         set(dataclasses.astuple(self.passwords)))

    def test_keys_are_fernet_keys(self) -> None:
        from cryptography import fernet
        keys = list((self.site.state / 'keystone').glob('*/*'))
        self.assertEqual(6, len(keys))
        for path in keys:
            fernet.Fernet(path.read_bytes())


class TestServices(RenderTest):

    def test_complete(self) -> None:
        """Each file that a service names on its command line is there."""
        for service in services.table(self.site).values():
            for word in service.argv:
                path = pathlib.Path(word.partition('=')[2] or word)
                if path.is_relative_to(self.site.etc):
                    self.assertTrue(path.is_file(), word)

    def test_control(self) -> None:
        nova = read(self.site.etc / 'control' / 'nova.conf')
        self.assertIn(self.passwords.database, nova['database']['connection'])
        self.assertNotIn('libvirt', nova)

    def test_compute_hosts(self) -> None:
        for host in topology.COMPUTES:
            nova = read(self.site.etc / host.name / 'nova.conf')
            self.assertEqual((host.name, host.address), (
                nova['DEFAULT']['host'], nova['DEFAULT']['my_ip']))
            self.assertEqual(host.address, nova['libvirt'][
                'live_migration_inbound_addr'])
            self.assertEqual(
                ('qemu', 'host', 'true'),
                tuple(nova['libvirt'][option] for option in (
                    'virt_type', 'iscsi_initiator', 'volume_use_multipath')))
            # A console's path is in the guest's XML, which migrates.
            self.assertEqual(hosts.NOVA, nova['DEFAULT']['state_path'])
            # Nova takes a database in a compute's configuration for a
            # mistake, and says so at length.
            self.assertNotIn('database', nova)
            self.assertNotIn('api_database', nova)

    def test_compute_hosts_differ_in_who_they_are_only(self) -> None:
        texts = []
        for host in topology.COMPUTES:
            suite = userland.SUITES[host.suite]
            text = (self.site.etc / host.name / 'nova.conf').read_text()
            for own, word in (
                    (str(userland.venv_of(suite, userland.CACHE)), 'VENV'),
                    (host.address, 'ADDRESS'), (host.name, 'NAME')):
                self.assertIn(own, text)
                text = text.replace(own, word)
            texts.append(text)
        self.assertEqual(*texts)

    def test_privileges_come_from_where_the_service_does(self) -> None:
        """A host has its own Python's programs only."""
        found = 0
        for host, name in (('control', 'nova'), ('control', 'cinder'),
                           ('storage', 'cinder'), ('cmp1', 'nova'),
                           ('cmp2', 'nova')):
            path = self.site.etc / host / f'{name}.conf'
            venv = self.site.venv
            if topology.is_kernel(host):
                venv = userland.venv_of(userland.SUITES[
                    topology.kernel(host).suite], userland.CACHE)
            config = read(path)
            for section in config.sections():
                if 'helper_command' in config[section]:
                    found += 1
                    self.assertEqual(
                        f'{venv}/bin/privsep-helper --config-file {path}',
                        config[section]['helper_command'])
        self.assertGreater(found, 10)

    def test_backends(self) -> None:
        for host in ('control', 'storage'):
            cinder = read(self.site.etc / host / 'cinder.conf')
            enabled = cinder['DEFAULT']['enabled_backends'].split(',')
            self.assertEqual(list(topology.BACKENDS), enabled)
            self.assertIn(cinder['DEFAULT']['default_volume_type'], enabled)
            for backend in enabled:
                self.assertEqual(backend,
                                 cinder[backend]['volume_backend_name'])
            for backend, pool in topology.POOLS.items():
                self.assertEqual(pool, cinder[backend]['rbd_pool'])
                self.assertEqual(
                    str(services.Daemons(self.site).ceph.conf),
                    cinder[backend]['rbd_ceph_conf'])

    def test_lio(self) -> None:
        cinder = read(self.site.etc / 'storage' / 'cinder.conf')
        for backend, scope in topology.SCOPES.items():
            options = cinder[backend]
            self.assertEqual(
                ('lioadm', scope, backend, 'thin', 'true'),
                tuple(options[name] for name in (
                    'target_helper', 'target_scope', 'volume_group',
                    'lvm_type', 'use_chap_auth')))
            addresses = (options['target_ip_address'],
                         options['target_secondary_ip_addresses'])
            self.assertEqual(topology.STORAGE.addresses, addresses)
        self.assertEqual({'host', 'volume'}, set(topology.SCOPES.values()))


class TestOwnFiles(RenderTest):

    def test_names(self) -> None:
        lines = [f'{host.address} {host.name}' for host in topology.HOSTS]
        for host in topology.HOSTS:
            self.assertEqual(
                ['127.0.0.1 localhost', *lines],
                self.own(host, 'hosts').read_text().splitlines())

    def test_initiators(self) -> None:
        for host in topology.KERNELS:
            self.assertEqual(
                f'InitiatorName={host.initiator}\n',
                self.own(host, 'iscsi/initiatorname.iscsi').read_text())
            settings = dict(
                line.split(' = ') for line in self.own(
                    host, 'iscsi/iscsid.conf').read_text().splitlines()
                if not line.startswith('#'))
            # os-brick scans for the LUN that it wants, and for no other.
            self.assertEqual('manual', settings['node.session.scan'])
            self.assertIn('iscsid.socket', settings['iscsid.startup'])

    def test_multipath_leaves_the_disks_of_the_host_alone(self) -> None:
        for host in topology.KERNELS:
            text = self.own(host, 'multipath.conf').read_text()
            patterns = re.findall(r'devnode "(.*)"', text)
            for device, is_left in (('ubda', True), ('dm-3', True),
                                    ('sda', False)):
                self.assertEqual(is_left, any(
                    re.match(pattern, device) for pattern in patterns))

    def test_libvirt(self) -> None:
        for host in topology.COMPUTES:
            libvirtd = self.own(host, 'libvirt/libvirtd.conf').read_text()
            self.assertIn(f'host_uuid = "{host.uuid}"', libvirtd)
            self.assertIn(f'listen_addr = "{host.address}"', libvirtd)
            qemu = self.own(host, 'libvirt/qemu.conf').read_text()
            self.assertIn(f'migration_host = "{host.address}"', qemu)
            # Without it systemd ends an idle libvirtd after two minutes.
            self.assertEqual('LIBVIRTD_ARGS=\n',
                             self.own(host, 'default/libvirtd').read_text())
            unit = self.own(host, 'systemd/system/sockets.target.wants/'
                                  'libvirtd-tcp.socket')
            self.assertEqual('/lib/systemd/system/libvirtd-tcp.socket',
                             os.readlink(unit))
        self.assertFalse(self.own(topology.STORAGE, 'libvirt').exists())

    def test_lio_can_keep_its_configuration(self) -> None:
        self.assertTrue(self.own(topology.STORAGE, 'target').is_dir())


class TestTable(lab_base.LabTest):

    def test_binaries(self) -> None:
        table = services.table(self.site)
        self.assertEqual('nova-compute', table['nova-compute-cmp2'].binary)
        self.assertEqual('cinder-volume', table['cinder-volume'].binary)

    def test_every_service_is_started_once(self) -> None:
        started = start.Start(self.site, print)
        names: list[str] = []
        booted: list[str] = []
        self.patch(started.daemons, 'start_ready', names.append)
        self.patch(started.daemons, 'boot', booted.append)
        all_tasks = started.tasks()
        known = {task.name for task in all_tasks}
        for task in all_tasks:
            self.assertTrue(known.issuperset(task.needs), task)
            if task.run.__qualname__.startswith(('Start._starter',
                                                 'Start._booter')):
                task.run()
        wanted = [name for name, service in started.daemons.table.items()
                  if not service.extra]
        self.assertEqual(sorted(wanted), sorted(names))
        self.assertEqual(['storage', 'cmp1', 'cmp2'], booted)

    def test_a_service_waits_for_its_host(self) -> None:
        needs = {task.name: set(task.needs) for task in
                 start.Start(self.site, print).tasks()}

        def all_needs(name: str) -> set[str]:
            return needs[name].union(*map(all_needs, needs[name]))

        for name, host in (('cinder-volume', 'storage'),
                           ('volume groups', 'storage'),
                           ('nova-compute cmp1', 'cmp1'),
                           ('libvirtd cmp2', 'cmp2')):
            self.assertIn(f'host {host}', all_needs(name))
            self.assertIn('configuration', all_needs(name))
            self.assertIn('network', all_needs(name))

    def test_tasks_are_no_circle(self) -> None:
        class Silent:
            def started(self, name: str) -> None:
                pass

            def done(self, name: str, seconds: float) -> None:
                pass

            def failed(self, name: str, seconds: float) -> None:
                pass

        tasks.run_all(
            [dataclasses.replace(task, run=lambda: None)
             for task in start.Start(self.site, print).tasks()],
            Silent())
