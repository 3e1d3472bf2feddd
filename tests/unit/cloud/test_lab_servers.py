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
"""What is kept of a guest when its server is deleted."""

import shutil
import types
from typing import Any

import openstack.exceptions

from blockpath.cloud import lab_hosts
from blockpath.cloud import lab_servers
from blockpath.machine import topology
from tests.unit import lab_base


class FakeCompute:
    """Deletes a server with its folder, as Nova does."""

    def __init__(self, site: topology.Site) -> None:
        self.site = site

    def delete_server(self, server: str) -> None:
        for host in lab_hosts.Hosts.names:
            shutil.rmtree(self.site.host(host) / 'nova/instances' / server,
                          ignore_errors=True)

    def get_server(self, server: str) -> None:
        raise openstack.exceptions.NotFoundException


class KeptLogsTest(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        cloud: Any = types.SimpleNamespace(compute=FakeCompute(self.site))
        hosts: Any = lab_hosts.Hosts
        volumes: Any = None
        self.servers = lab_servers.Servers(cloud, self.site, hosts, volumes)

    def write(self, host: str, path: str, text: str) -> None:
        file = self.site.host(host) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def test_they_outlive_the_server(self) -> None:
        self.write('cmp1', 'nova/instances/one/console.log', 'left here')
        self.write('cmp2', 'nova/instances/one/console.log', 'hung here')
        qemu = self.site.log / 'cmp2' / 'libvirt' / 'qemu' / 'instance-1.log'
        qemu.parent.mkdir(parents=True)
        qemu.write_text('shut down')
        server = types.SimpleNamespace(id='one', name='demo')
        self.servers.delete(server)
        self.assertEqual(
            {'cmp1/console-one.log': 'left here',
             'cmp2/console-one.log': 'hung here',
             'cmp2/libvirt/qemu/instance-1.log': 'shut down'},
            {str(path.relative_to(self.site.log)): path.read_text()
             for path in self.servers.logs})

    def test_a_guest_that_panicked(self) -> None:
        server = types.SimpleNamespace(id='one', name='demo')
        self.write('cmp1', 'nova/instances/one/console.log', 'it runs\n')
        self.assertEqual('', self.servers.panic(server))
        self.write('cmp2', 'nova/instances/one/console.log',
                   'it runs\n[ 9.1] Kernel panic - not syncing: lost it\n'
                   '[ 9.2] Rebooting\n')
        self.assertEqual('cmp2: Kernel panic - not syncing: lost it',
                         self.servers.panic(server))
