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
import pathlib
import stat

from blockpath.cloud import config_files
from blockpath.cloud import services
from blockpath.cloud import start
from blockpath.machine import credentials
from blockpath.machine import tasks
from blockpath.machine import topology
from tests.unit import lab_base


def read(path: pathlib.Path) -> configparser.ConfigParser:
    config = configparser.ConfigParser(interpolation=None, strict=False)
    config.read(path)
    return config


class TestRender(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.passwords = credentials.Passwords()
        renderer = config_files.Renderer(self.site, self.passwords)
        renderer.all()
        renderer.computes('qemu')

    def test_files_with_passwords_are_private(self) -> None:
        secrets = dataclasses.astuple(self.passwords)
        holders = 0
        for path in self.site.state.rglob('*'):
            if path.is_file() and any(secret in path.read_text()
                                      for secret in secrets):
                holders += 1
                self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode),
                                 str(path))
        self.assertGreater(holders, 5)

    def test_no_password_on_a_command_line(self) -> None:
        secrets = dataclasses.astuple(self.passwords)
        for service in services.table(self.site).values():
            told = ' '.join((*service.argv, *service.env.values()))
            for secret in secrets:
                self.assertNotIn(secret, told)

    def test_passwords_differ_between_labs(self) -> None:
        other = dataclasses.astuple(credentials.Passwords())
        self.assertEqual(set(), set(other) &
                         set(dataclasses.astuple(self.passwords)))

    def test_hypervisors(self) -> None:
        for host in topology.COMPUTES:
            nova = read(self.site.etc / host.name / 'nova.conf')
            self.assertEqual(host.name, nova['DEFAULT']['host'])
            self.assertEqual('qemu', nova['libvirt']['iscsi_initiator'])
            self.assertEqual(host.address, nova['libvirt'][
                'live_migration_inbound_addr'])
            # Nova takes a database in a compute's configuration for a
            # mistake, and says so at length.
            self.assertNotIn('database', nova)
            self.assertNotIn('api_database', nova)
            etc = self.site.host(host.name) / 'etc'
            self.assertIn(host.uuid,
                          (etc / 'libvirt/libvirtd.conf').read_text())

    def test_initiators(self) -> None:
        for host in topology.CLIENTS:
            etc = self.site.host(host.name) / 'etc'
            self.assertEqual(f'InitiatorName={host.initiator}\n',
                             (etc / 'iscsi/initiatorname.iscsi').read_text())

    def test_control(self) -> None:
        nova = read(self.site.etc / 'control' / 'nova.conf')
        self.assertIn(self.passwords.database, nova['database']['connection'])
        self.assertNotIn('libvirt', nova)

    def test_backends(self) -> None:
        for host in ('control', 'storage'):
            cinder = read(self.site.etc / host / 'cinder.conf')
            enabled = cinder['DEFAULT']['enabled_backends'].split(',')
            self.assertEqual(list(topology.BACKENDS), enabled)
            for backend in enabled:
                self.assertEqual(backend,
                                 cinder[backend]['volume_backend_name'])
            for backend, pool in topology.POOLS.items():
                self.assertEqual(pool, cinder[backend]['rbd_pool'])
                self.assertEqual(
                    str(services.Daemons(self.site).ceph.conf),
                    cinder[backend]['rbd_ceph_conf'])

    def test_keys_are_fernet_keys(self) -> None:
        from cryptography import fernet
        for path in (self.site.state / 'keystone').glob('*/*'):
            fernet.Fernet(path.read_bytes())


class TestTable(lab_base.LabTest):

    def test_binaries(self) -> None:
        table = services.table(self.site)
        self.assertEqual('nova-compute', table['nova-compute-cmp2'].binary)
        self.assertEqual('cinder-volume', table['cinder-volume'].binary)

    def test_every_service_is_started_once(self) -> None:
        started = start.Start(self.site, print, None)
        names: list[str] = []
        started.daemons.start_ready = names.append  # type: ignore
        all_tasks = started.tasks()
        known = {task.name for task in all_tasks}
        for task in all_tasks:
            self.assertTrue(known.issuperset(task.needs), task)
            if task.run.__qualname__.startswith('Start._starter'):
                task.run()
        wanted = [name for name, service in started.daemons.table.items()
                  if not service.extra]
        self.assertEqual(sorted(wanted), sorted(names))

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
             for task in start.Start(self.site, print, None).tasks()],
            Silent())
