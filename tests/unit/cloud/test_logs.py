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
"""Logs are found while the lab is up, and afterwards."""

import os
import pathlib

from blockpath.cloud import lifecycle
from blockpath.cloud import logs
from blockpath.machine import errors
from tests.unit import lab_base

ONE = '60f6b7e8-652c-434e-b601-657fc16c17b8'
TWO = '93092a4b-a0aa-4a22-ad79-21595d95dcc4'
#: As Nova logs it; shortened.
STARTED = '''\
2026-11-30 21:29:33.814 DEBUG nova.virt.libvirt.driver [instance: {id}] End \
_get_guest_xml xml=<domain type="qemu">
  <uuid>{id}</uuid>
  <name>instance-00000001</name>
  <memory>131072</memory>
  <metadata>
    <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
      <nova:package version="34.0.0"/>
      <nova:name>{name}</nova:name>
      <nova:creationTime>2026-11-30 21:29:33</nova:creationTime>
'''


class LogsTestCase(lab_base.LabTest):

    def write(self, path: pathlib.Path, text: str, age: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        stamp = path.stat().st_mtime - age
        os.utime(path, (stamp, stamp))

    def log(self, name: str, text: str = '', age: int = 0) -> None:
        self.write(self.site.log / f'{name}.log', text, age)

    def guest(self, host: str, server: str, text: str, age: int = 0) -> None:
        self.write(self.site.host(host) / 'nova' / 'instances' / server /
                   'console.log', text, age)

    def starts(self, host: str, **servers: str) -> None:
        """Write the log of a compute service that starts servers."""
        self.log(f'nova-compute-{host}', 'much else\n'.join(
            STARTED.format(id=server, name=name)
            for name, server in servers.items()))


class FindTest(LogsTestCase):

    def setUp(self) -> None:
        super().setUp()
        for name in ('cmp1', 'storage', 'nova-api', 'cmp1/console-old',
                     'cmp1/libvirt/qemu/instance-1', 'cmp1/libvirt/libvirtd'):
            self.log(name)
        self.guest('cmp2', 'new', 'boots')

    def test_each_kind(self) -> None:
        self.assertEqual(
            [('service', 'cmp1/libvirt/libvirtd'), ('service', 'nova-api'),
             ('host', 'cmp1'), ('host', 'storage'),
             ('guest', 'cmp1/console-old'), ('guest', 'cmp2/console-new'),
             ('QEMU', 'cmp1/libvirt/qemu/instance-1')],
            [(log.kind, log.name) for log in logs.find(self.site)])

    def test_after_the_lab(self) -> None:
        before = [(log.kind, log.name) for log in logs.find(self.site)]
        lifecycle.clear(self.site)
        self.assertEqual(before, [(log.kind, log.name)
                                  for log in logs.find(self.site)])
        self.assertEqual(
            'boots', logs.get(self.site, 'cmp2/console-new').path.read_text())

    def test_guest_that_writes_on(self) -> None:
        self.assertEqual([self.site.log / 'cmp2' / 'console-new.log'],
                         logs.keep_consoles(self.site))
        self.guest('cmp2', 'new', 'serves')
        self.assertEqual(
            'serves', logs.get(self.site, 'cmp2/console-new').path.read_text())

    def test_unknown_name(self) -> None:
        error = self.assertRaises(errors.LabError, logs.get, self.site, 'cmp')
        self.assertIn('unknown log cmp;', str(error))


class ServersTest(LogsTestCase):

    def test_names(self) -> None:
        self.starts('cmp1', demo=ONE)
        self.starts('cmp2', **{'R&amp;D &lt;1&gt;': TWO, 'renamed': ONE})
        self.assertIn(logs.servers(self.site)[ONE], ('demo', 'renamed'))
        self.assertEqual('R&D <1>', logs.servers(self.site)[TWO])

    def test_domain_without_a_name(self) -> None:
        self.log('nova-compute-cmp1', f'<uuid>{ONE}</uuid>' + ' ' * 5000 +
                 STARTED.format(id=TWO, name='two'))
        self.assertEqual({TWO: 'two'}, logs.servers(self.site))

    def console(self, name: str) -> str:
        return logs.console(self.site, name).path.read_text()

    def test_console_of_a_host(self) -> None:
        self.log('cmp1', 'Linux')
        self.log('nova-api', 'started')
        self.assertEqual('Linux', self.console('cmp1'))
        self.assertRaises(errors.LabError, self.console, 'nova-api')

    def test_console_of_a_server(self) -> None:
        self.starts('cmp1', demo=ONE, other=TWO)
        self.guest('cmp1', ONE, 'boots')
        self.guest('cmp2', TWO, 'hangs')
        for _ in range(2):
            self.assertEqual('boots', self.console('demo'))
            self.assertEqual('boots', self.console(ONE))
            self.assertEqual('hangs', self.console('other'))
            lifecycle.clear(self.site)

    def test_server_that_was_migrated(self) -> None:
        self.starts('cmp1', demo=ONE)
        self.log(f'cmp1/console-{ONE}', 'boots', age=10)
        self.guest('cmp2', ONE, 'arrives', age=5)
        self.assertEqual('arrives', self.console('demo'))
        self.log(f'cmp1/console-{ONE}', 'is back')
        self.assertEqual('is back', self.console('demo'))

    def test_no_console(self) -> None:
        self.starts('cmp1', demo=ONE)
        error = self.assertRaises(errors.LabError, self.console, 'demo')
        self.assertIn('no console of demo', str(error))
