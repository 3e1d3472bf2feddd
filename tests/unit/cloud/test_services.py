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
"""Where services run, when they are ready, and how they and hosts end."""

import os
import pathlib
from unittest import mock

from blockpath.cloud import hosts
from blockpath.cloud import services
from blockpath.machine import errors
from blockpath.machine import kernel_host
from blockpath.machine import processes
from blockpath.machine import topology
from blockpath.machine import userland
from tests.unit import fake_host
from tests.unit import lab_base

STORAGE = topology.STORAGE.address
CMP1 = topology.COMPUTES[0].address


class TestReports(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.daemons = services.Daemons(self.site)
        self.counts: dict[str, int] = {}
        patch = mock.patch.object(self.daemons, '_report_counts',
                                  lambda service: dict(self.counts))
        patch.start()
        self.addCleanup(patch.stop)

    def check(self, name: str):
        return self.daemons._reports(self.daemons.table[name])

    def test_first_start_has_a_line_a_backend(self) -> None:
        ready = self.check('cinder-volume')
        for backend in topology.BACKENDS:
            self.assertFalse(ready())
            self.counts[f'storage@{backend}'] = 0
        self.assertTrue(ready())

    def test_after_a_restart_every_backend_counts_on(self) -> None:
        self.counts = {f'storage@{backend}': 5
                       for backend in topology.BACKENDS}
        ready = self.check('cinder-volume')
        for backend in topology.BACKENDS:
            self.assertFalse(ready())
            self.counts[f'storage@{backend}'] += 1
        self.assertTrue(ready())

    def test_other_services_have_one_line(self) -> None:
        ready = self.check('nova-scheduler')
        self.assertFalse(ready())
        self.counts['control'] = 0
        self.assertTrue(ready())


class HostsTest(lab_base.LabTest):
    """Hosts are processes that sleep; ssh reaches a systemd for each."""

    def setUp(self) -> None:
        super().setUp()
        self.fake = self.useFixture(fake_host.FakeHosts(self.folder / 'fake'))
        self.patch(userland, 'venv_of', lambda suite, cache: self.fake.folder)
        for program in ('cinder-volume', 'nova-compute'):
            self.fake.add(program, '#!/bin/sh\necho "$0 $*"\nsleep 600\n')
        self.daemons = services.Daemons(self.site)
        # Their databases are not there to ask.
        self.patch(self.daemons, '_check', lambda name: lambda: True)
        self.patch(hosts, 'boot', self.boot)
        for host in topology.KERNELS:
            self.boot(self.site, host, self.daemons.records)
            self.addCleanup(self.daemons.kill, host.name)

    def boot(self, site: topology.Site, host: topology.KernelHost,
             records: processes.Records) -> None:
        for path in self.fake.folder.glob(f'hosts/{host.address}/*'):
            path.unlink()
        records.spawn(host.name, ['sleep', '600'], dict(os.environ))

    def pid(self, host: str) -> int:
        process = self.daemons.records.get(host)
        assert process
        return process.pid


class TestOnKernels(HostsTest):

    def test_a_service_of_ours(self) -> None:
        self.assertFalse(self.daemons.runs('cinder-volume'))
        self.daemons.start_ready('cinder-volume')
        self.assertTrue(self.daemons.runs('cinder-volume'))
        self.assertEqual(['cinder-volume'], list(self.fake.units(STORAGE)))
        self.assertEqual({}, self.fake.units(CMP1))
        log = self.site.log / 'cinder-volume.log'
        wanted = (f'cinder-volume --config-file {self.site.etc}/storage/'
                  'cinder.conf\n')
        services.wait.until(lambda: log.read_text().endswith(wanted),
                            'its log', 10)
        self.daemons.stop('cinder-volume')
        self.assertFalse(self.daemons.runs('cinder-volume'))

    def test_a_service_of_the_system(self) -> None:
        self.daemons.start_ready('libvirtd-cmp1')
        self.assertEqual(['libvirtd'], list(self.fake.units(CMP1)))
        self.assertTrue(self.daemons.runs('libvirtd-cmp1'))
        self.assertFalse(self.daemons.runs('libvirtd-cmp2'))

    def test_the_log_of_each(self) -> None:
        """The system's own write to the journal, which the host's log has."""
        for name, log in (('cinder-volume', 'cinder-volume.log'),
                          ('nova-compute-cmp1', 'nova-compute-cmp1.log'),
                          ('libvirtd-cmp1', 'cmp1.log')):
            found = self.daemons.find(name)
            assert isinstance(found, kernel_host.Unit)
            self.assertEqual(self.site.log / log, found.log)

    def test_killed(self) -> None:
        self.daemons.start_ready('cinder-volume')
        self.assertTrue(self.daemons.kill('cinder-volume'))
        self.assertFalse(self.daemons.runs('cinder-volume'))
        self.assertFalse(self.daemons.kill('cinder-volume'))
        self.daemons.restart('cinder-volume')
        self.assertTrue(self.daemons.runs('cinder-volume'))

    def test_ended_before_it_served(self) -> None:
        self.fake.add('cinder-volume', '#!/bin/sh\necho no database\nexit 1')
        self.patch(self.daemons, '_check', lambda name: lambda: False)
        error = self.assertRaises(errors.ServiceDied,
                                  self.daemons.start_ready, 'cinder-volume')
        self.assertIn('no database', error.message)

    def test_no_host(self) -> None:
        self.daemons.start_ready('cinder-volume')
        self.daemons.kill('storage')
        self.assertIsNone(self.daemons.find('cinder-volume'))
        self.assertFalse(self.daemons.runs('cinder-volume'))
        self.assertFalse(self.daemons.kill('cinder-volume'))
        self.daemons.stop('cinder-volume')


class TestHosts(HostsTest):

    def test_killed(self) -> None:
        pid = self.pid('cmp1')
        self.assertTrue(self.daemons.kill('cmp1'))
        self.assertIsNone(processes.start_ticks(pid))
        self.assertFalse(self.daemons.kill('cmp1'))
        self.assertTrue(hosts.is_up('cmp2', self.daemons.records))

    def test_restarted_with_its_services(self) -> None:
        self.daemons.start_ready('nova-compute-cmp1')
        before = self.pid('cmp1')
        self.daemons.restart('cmp1')
        self.assertIsNone(processes.start_ticks(before))
        self.assertTrue(hosts.is_up('cmp1', self.daemons.records))
        # Not what is started for tempest only.
        self.assertEqual({'libvirtd', 'nova-compute'},
                         set(self.fake.units(CMP1)))
        self.assertEqual({}, self.fake.units(STORAGE))

    def test_restarted_after_it_was_killed(self) -> None:
        self.daemons.kill('storage')
        self.daemons.restart('storage')
        self.assertTrue(self.daemons.runs('cinder-volume'))

    def test_unknown_names(self) -> None:
        for function in (self.daemons.kill, self.daemons.restart):
            for name in ('cmp3', 'control', 'nova', ''):
                error = self.assertRaises(errors.LabError, function, name)
                self.assertIn(f'unknown service {name} (choose from',
                              error.message)
                for known in ('cinder-volume', 'nova-compute-cmp2', 'cmp1',
                              'storage'):
                    self.assertIn(known, error.message)

    def test_a_shell_on_a_host_with_no_kernel(self) -> None:
        self.assertRaises(KeyError, self.daemons.shell, 'control')


class TestOnNamespaces(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.daemons = services.Daemons(self.site)
        self.patch(self.daemons, '_check', lambda name: lambda: True)
        # A program that lives until it is ended.
        self.daemons.table['rabbitmq'] = services.Service(
            'rabbitmq', 'control', ('sleep', '600'))

    def test_a_host_that_is_not_up(self) -> None:
        error = self.assertRaises(errors.LabError, self.daemons.start,
                                  'rabbitmq')
        self.assertEqual('host control is not up; start the lab with: '
                         'blockpath lab up', error.message)

    def test_where_a_service_is_started(self) -> None:
        self.daemons.records.record('anchor-control', os.getpid())
        self.assertEqual(
            ['nsenter', '--target', str(os.getpid()), '--net', '--mount',
             '--uts', '--'], self.daemons.enter('control'))

    def test_killed(self) -> None:
        self.patch(self.daemons, 'enter', lambda host: [])
        self.daemons.start_ready('rabbitmq')
        self.assertTrue(self.daemons.runs('rabbitmq'))
        self.assertTrue(self.daemons.kill('rabbitmq'))
        self.assertFalse(self.daemons.runs('rabbitmq'))
        self.assertFalse(self.daemons.kill('rabbitmq'))

    def test_stopped(self) -> None:
        self.patch(self.daemons, 'enter', lambda host: [])
        process = self.daemons.start('rabbitmq')
        assert isinstance(process, processes.Process)
        self.daemons.stop('rabbitmq')
        self.assertIsNone(processes.start_ticks(process.pid))
        self.assertIsNone(self.daemons.find('rabbitmq'))

    def test_environment(self) -> None:
        """Nothing comes from who starts the lab."""
        env = self.daemons.env(A='b')
        self.assertEqual({'PATH', 'LANG', 'HOME', 'TMPDIR', 'PYTHONWARNINGS',
                          'A'}, set(env))
        self.assertEqual(str(self.site.venv / 'bin'),
                         env['PATH'].split(':')[0])


class TestTable(lab_base.LabTest):

    def test_hosts(self) -> None:
        names = {host.name for host in topology.HOSTS}
        table = services.table(self.site)
        self.assertEqual(names, {service.host for service in table.values()})
        for name, service in table.items():
            # A host with a kernel has its own Python, and not ours.
            if topology.is_kernel(service.host) and service.argv:
                self.assertFalse(pathlib.Path(
                    service.argv[0]).is_relative_to(self.site.venv), name)

    def test_names_of_units(self) -> None:
        table = services.table(self.site)
        for host in topology.KERNELS:
            units = [service.binary for service in table.values()
                     if service.host == host.name]
            self.assertEqual(len(units), len(set(units)))
