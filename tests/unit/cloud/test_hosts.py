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
"""Hosts with kernels: their files and disks, their start and their end.

The kernel is a script; ssh reaches a systemd that is one, too.
"""

import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
from typing import Any
from unittest import mock

from blockpath.cloud import hosts
from blockpath.cloud import services
from blockpath.machine import errors
from blockpath.machine import kernel
from blockpath.machine import kernel_host
from blockpath.machine import namespaces
from blockpath.machine import processes
from blockpath.machine import topology
from blockpath.machine import userland
from blockpath.machine import wait
from blockpath import paths
from tests.unit import fake_host
from tests.unit import lab_base

CMP1, CMP2 = topology.COMPUTES
STORAGE = topology.STORAGE
LINUX = '''#!/bin/sh
printf '%s\\n' "$@" >FOLDER/options
echo "$HOME" >FOLDER/home
echo 'Linux version 7.2.7'
BEHAVIOUR
'''


class HostsTest(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.fake = self.useFixture(fake_host.FakeHosts(self.folder / 'fake'))
        self.binary = self.folder / 'linux'
        self.kernel = kernel.Kernel(self.binary, '7.2.7',
                                    self.folder / 'modules' / '7.2.7')
        self.patch(hosts.kernel, 'prepare', lambda cache, say: self.kernel)
        self.patch(hosts, 'userland_of', self.userland_of)
        self.patch(userland, 'venv_of', lambda suite, cache: self.fake.folder)
        sockets = mock.patch.object(topology.Site, 'sockets',
                                    self.folder / 'sockets')
        sockets.start()
        self.addCleanup(sockets.stop)
        self.records = processes.Records(self.site.run, self.site.log)

    def userland_of(self, host: topology.KernelHost, of: kernel.Kernel,
                    say: userland.Say) -> userland.Userland:
        self.assertIs(self.kernel, of)
        return userland.Userland(
            userland.SUITES[host.suite], self.folder / host.suite,
            self.fake.folder)


class TestConfigure(HostsTest):

    def setUp(self) -> None:
        super().setUp()
        hosts.configure(self.site)

    def own(self, host: topology.KernelHost, path: str) -> str:
        return (self.site.host(host.name) / 'root' / path).read_text()

    def test_identities(self) -> None:
        self.assertEqual(
            ['storage\n', 'cmp1\n', 'cmp2\n'],
            [self.own(host, 'etc/hostname') for host in topology.KERNELS])
        for host in topology.KERNELS:
            self.assertEqual(host.uuid.replace('-', '') + '\n',
                             self.own(host, 'etc/machine-id'))

    def test_key(self) -> None:
        key = self.site.etc / 'ssh' / 'key'
        self.assertEqual(0o600, stat.S_IMODE(key.stat().st_mode))
        public = subprocess.run(['ssh-keygen', '-y', '-f', key], check=True,
                                capture_output=True, text=True).stdout
        for host in topology.KERNELS:
            kept = self.own(host, 'root/.ssh/authorized_keys')
            self.assertEqual(public.split()[:2], kept.split()[:2])
        self.assertEqual(0o700, stat.S_IMODE(
            self.site.sockets.stat().st_mode))

    def test_networks(self) -> None:
        """Servers are on a third one, on which hosts have no address."""
        for host in topology.KERNELS:
            lines = self.own(host, 'etc/lab/network').splitlines()
            for number, address in enumerate(host.addresses):
                self.assertIn(f'addr add {address}/24 dev vec{number}', lines)
            self.assertEqual(host in topology.COMPUTES,
                             'link set vec2 up' in lines)

    def test_disks(self) -> None:
        disks = {path.name: path.stat()
                 for path in (self.site.state / 'disks').iterdir()}
        self.assertEqual(set(topology.SCOPES), set(disks))
        for disk in disks.values():
            self.assertEqual((40 << 30, 0), (disk.st_size, disk.st_blocks))

    def test_shares(self) -> None:
        found = {}
        for host in topology.KERNELS:
            lines = self.own(host, 'etc/lab/shares').splitlines()
            shares = [line.split() for line in lines]
            for source, target in shares:
                self.assertTrue(pathlib.Path(source).is_dir(), source)
                if target == '/var/lib/nova':
                    # Nova does not make it, and libvirt's logs are in it.
                    self.assertEqual(['instances'], os.listdir(source))
            found[host] = {target: source for source, target in shares}
        for shared in found.values():
            # Paths in configuration are the same on all hosts.
            for folder in (str(paths.ROOT), str(self.site.state)):
                self.assertEqual(folder, shared[folder])
        for target in (hosts.NOVA, '/var/log/libvirt', '/var/cache/libvirt'):
            self.assertNotIn(target, found[STORAGE])
            # No host writes to another's folder.
            self.assertNotEqual(found[CMP1][target], found[CMP2][target])
        log = pathlib.Path(found[CMP1]['/var/log/libvirt'])
        self.assertTrue(log.is_relative_to(self.site.log))

    def test_modules(self) -> None:
        for host, needed in ((STORAGE, 'target_core_iblock'),
                             (STORAGE, 'dm-thin-pool'),
                             (CMP1, 'dm-multipath'), (CMP2, 'iscsi_tcp'),
                             (CMP2, 'dm-crypt')):
            self.assertIn(needed, self.own(
                host, 'etc/modules-load.d/lab.conf').splitlines())


class TestPrepare(HostsTest):

    def test_all_that_hosts_boot_from(self) -> None:
        made: list[str] = []
        self.patch(hosts, 'userland_of',
                   lambda host, of, say: made.append(host.suite))
        hosts.prepare(print)
        self.assertEqual(['bookworm', 'bookworm', 'trixie'], made)

    def test_no_room_for_their_memory(self) -> None:
        usage = shutil.disk_usage('/')._replace(total=6000 << 20,
                                                free=3000 << 20)
        self.patch(shutil, 'disk_usage', lambda path: usage)
        error = self.assertRaises(errors.LabError, hosts.prepare, print)
        self.assertIn('4096 MiB, is in /dev/shm, which has 3000 MiB free',
                      error.message)
        # It must not shrink, and hold what there is.
        self.assertIn('size=7096M', error.message)
        self.assertNotIn('\n', error.message)

    def test_no_place_for_their_memory(self) -> None:
        self.patch(hosts, '_MEMORY', str(self.folder / 'missing'))
        error = self.assertRaises(errors.LabError, hosts.prepare, print)
        self.assertIn('which this machine lacks', error.message)


class TestBoot(HostsTest):

    def setUp(self) -> None:
        super().setUp()
        lab_base.need_namespaces(self)
        # The kernel's own PATH has the real nsenter.
        self.patch(namespaces, 'path',
                   lambda name: pathlib.Path('/proc/self/ns/net'))
        self.site.sockets.mkdir()
        self.addCleanup(hosts.kill, 'cmp1', self.records)

    def boot(self, behaviour: str) -> None:
        self.binary.write_text(LINUX.replace('FOLDER', str(
            self.folder)).replace('BEHAVIOUR', behaviour))
        self.binary.chmod(0o755)
        hosts.boot(self.site, CMP1, self.records)

    def fail_to_boot(self, behaviour: str) -> str:
        self.fake.cut_off(CMP1.address)
        error = self.assertRaises(errors.ServiceDied, self.boot, behaviour)
        self.assertIn('cmp1 ended unexpectedly', error.message)
        self.assertIn(str(self.site.log / 'cmp1.log'), error.message)
        return error.message

    def test_up(self) -> None:
        stale = self.site.sockets / 'cmp1'
        stale.touch()
        self.assertFalse(hosts.is_up('cmp1', self.records))
        self.boot('exec sleep 60')
        self.assertTrue(hosts.is_up('cmp1', self.records))
        self.assertFalse(stale.exists())
        options = (self.folder / 'options').read_text().splitlines()
        self.assertIn(f'rootflags={self.folder}/bookworm', options)
        self.assertIn(f'lab.overlay={self.site.host("cmp1")}/root', options)
        for number, tap in enumerate(('f-cmp1', 's-cmp1', 'g-cmp1')):
            [network] = [option for option in options
                         if option.startswith(f'vec{number}:')]
            self.assertIn(f'ifname={tap},', network)
        # It puts a folder there when it is not given one.
        self.assertEqual(f'{self.site.sockets}\n',
                         (self.folder / 'home').read_text())
        self.assertIn('Linux version',
                      (self.site.log / 'cmp1.log').read_text())

    def test_disks_of_the_storage_host(self) -> None:
        setup = hosts._setup(self.site, STORAGE, self.folder)
        self.assertEqual([self.site.disk('lvm'),
                          self.site.disk('lvm-by-volume')], setup.disks)

    def test_panic(self) -> None:
        message = self.fail_to_boot(
            'echo "[ 0.1] Kernel panic - not syncing: VFS: Unable to mount '
            'root fs"; echo "Call Trace:"; echo Aborted; exit 134')
        self.assertIn('    Kernel panic - not syncing: VFS: Unable to mount '
                      'root fs', message)
        self.assertNotIn('Call Trace', message)

    def test_an_end_with_no_panic(self) -> None:
        self.assertIn('    lab-init: no overlay', self.fail_to_boot(
            'echo "lab-init: no overlay"; exit 0'))

    def test_a_host_that_does_not_answer(self) -> None:
        self.fake.cut_off(CMP1.address)
        self.patch(kernel_host, 'BOOT', 0.5)
        error = self.assertRaises(errors.TimedOut, self.boot,
                                  'exec sleep 60')
        self.assertIn(f'host cmp1 to start (its log is {self.site.log}/'
                      'cmp1.log)', error.message)

    def test_a_host_that_is_still_starting(self) -> None:
        self.fake.add('systemctl', '#!/bin/sh\necho starting\n')
        self.patch(kernel_host, 'BOOT', 0.5)
        self.assertRaises(errors.TimedOut, self.boot, 'exec sleep 60')
        hosts.kill('cmp1', self.records)
        # A service that nobody needs may have failed.
        self.fake.add('systemctl', '#!/bin/sh\necho degraded\nexit 1\n')
        self.boot('exec sleep 60')

    def test_power_cut(self) -> None:
        self.boot('sleep 60 & echo $! >FOLDER/child; trap "" TERM; wait'
                  .replace('FOLDER', str(self.folder)))
        process = self.records.get('cmp1')
        assert process
        self.assertTrue(hosts.kill('cmp1', self.records))
        self.assertFalse(hosts.is_up('cmp1', self.records))
        # A kernel runs the host's processes as its children.
        child = int((self.folder / 'child').read_text())
        for pid in (process.pid, child):
            self.assertIsNone(processes.start_ticks(pid))
        self.assertFalse(hosts.kill('cmp1', self.records))

    def test_up_again(self) -> None:
        self.boot('exec sleep 60')
        hosts.kill('cmp1', self.records)
        self.boot('exec sleep 60')
        self.assertTrue(hosts.is_up('cmp1', self.records))
        self.assertEqual(2, (self.site.log / 'cmp1.log').read_text().count(
            'Linux version'))


class TestShell(HostsTest):

    def test_from_the_control_host(self) -> None:
        words = hosts.shell(self.site, CMP2).command(['true'])
        netns = self.site.netns('control')
        self.assertEqual(['nsenter', f'--net=/run/netns/{netns}', '--'],
                         words[:3])
        self.assertIn('root@10.77.0.12', words)
        self.assertIn(str(self.site.etc / 'ssh' / 'key'), words)

    def test_programs_of_the_services_come_first(self) -> None:
        """``python3`` is the one that has them."""
        done = hosts.shell(self.site, CMP2).run(['sh', '-c', 'echo $PATH'])
        self.assertTrue(done.stdout.startswith(f'{self.fake.bin}:/usr/sbin'),
                        done.stdout)


class TestNetwork(lab_base.LabTest):
    """A host's network, made in a namespace of this machine."""

    NAME = f'bp-hosts-{os.getpid()}'

    def setUp(self) -> None:
        super().setUp()
        lab_base.need_namespaces(self)
        self.ip('netns', 'add', self.NAME)
        self.addCleanup(self.ip, 'netns', 'delete', self.NAME)

    def ip(self, *arguments: str) -> str:
        return subprocess.run(['ip', *arguments], check=True,
                              stdout=subprocess.PIPE, text=True).stdout

    def add_interface(self, name: str) -> None:
        self.ip('-n', self.NAME, 'tuntap', 'add', 'dev', name, 'mode', 'tap')

    def make(self, host: topology.KernelHost) -> None:
        """Run the commands that a host runs before anything else."""
        setup = hosts._setup(self.site, host, self.folder)
        setup.write(host.uuid, '')
        for number in range(len(setup.networks)):
            self.add_interface(f'vec{number}')
        self.ip('-n', self.NAME, '-batch',
                str(setup.folder / 'etc/lab/network'))

    def links(self) -> dict[str, Any]:
        found = json.loads(self.ip('-n', self.NAME, '-json', 'address'))
        return {link['ifname']: link for link in found}

    def members(self) -> set[str]:
        return {name for name, link in self.links().items()
                if link.get('master') == topology.GUESTS}

    def test_each_host_has_its_addresses(self) -> None:
        self.make(topology.STORAGE)
        links = self.links()
        self.assertNotIn(topology.GUESTS, links)
        for number, address in enumerate(topology.STORAGE.addresses):
            found = links[f'vec{number}']
            self.assertIn('UP', found['flags'])
            self.assertEqual(
                [(address, topology.NETWORK_BITS)],
                [(each['local'], each['prefixlen'])
                 for each in found['addr_info'] if each['family'] == 'inet'])

    def test_taps_of_guests_join_their_network(self) -> None:
        host = topology.COMPUTES[0]
        self.make(host)
        self.assertEqual({'vec2'}, self.members())
        links = self.links()
        for name in ('vec2', topology.GUESTS):
            self.assertIn('UP', links[name]['flags'])
        self.add_interface('tap0')
        service = services.table(self.site)[f'taps-{host.name}']
        process = subprocess.Popen(
            ['ip', 'netns', 'exec', self.NAME, *service.argv],
            start_new_session=True)
        self.addCleanup(process.wait)
        # It has a child, which systemd ends with it.
        self.addCleanup(os.killpg, process.pid, signal.SIGKILL)
        wait.until(lambda: self.members() == {'vec2', 'tap0'},
                   'the first tap to join', 20)
        self.add_interface('tap1')
        wait.until(lambda: self.members() == {'vec2', 'tap0', 'tap1'},
                   'a new tap to join', 20)


class TestRoom(lab_base.LabTest):

    def test_room_for_the_memory(self) -> None:
        needed = CMP1.memory + CMP2.memory << 20
        for free, total in ((needed, needed), (needed, 4 * needed)):
            self.room(free, total)
            hosts.check_room(topology.COMPUTES)
        self.room(needed - 1, 4 * needed)
        error = self.assertRaises(errors.LabError, hosts.check_room,
                                  topology.COMPUTES)
        self.assertIn('which has 3071 MiB free', error.message)
        # Of which the used part stays used.
        self.assertIn(f'size={4 * 3072 + 1}M', error.message)

    def room(self, free: int, total: int) -> None:
        self.patch(hosts.shutil, 'disk_usage', lambda path: mock.Mock(
            total=total, free=free))

    def test_no_such_folder(self) -> None:
        self.patch(hosts, '_MEMORY', '/no/such/folder')
        error = self.assertRaises(errors.LabError, hosts.check_room, [CMP1])
        self.assertIn('mount a tmpfs there', error.message)
