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
"""A host's files, its command line, and what is run on it."""

import dataclasses
import os
import pathlib
import stat
from typing import Any

from blockpath.machine import errors
from blockpath.machine import kernel_host
from blockpath.machine import processes
from blockpath.machine import wait
from tests.unit import fake_host
from tests.unit import lab_base

ADDRESS = '10.77.0.20'
UUID = '11223344-5566-4788-99aa-bbccddeeff00'


class TestSetup(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.own = self.folder / 'own'
        self.setup_ = kernel_host.Setup(
            'storage', pathlib.Path('/cache/bookworm'), 1024, self.own,
            [kernel_host.Network('f-storage', '10.77.0.20/24'),
             kernel_host.Network('g-storage')],
            {'/a/checkout': '/a/checkout', '/a/nova': '/var/lib/nova'},
            [pathlib.Path('/d/lvm'), pathlib.Path('/d/other')],
            ['dm-thin-pool', 'sg'])

    def write(self) -> None:
        self.setup_.write(UUID, 'ssh-ed25519 AAAA lab\n')

    def test_files(self) -> None:
        (self.own / 'etc').mkdir(parents=True)
        (self.own / 'etc' / 'hosts').write_text('of others')
        self.write()
        found = {str(path.relative_to(self.own)): path.read_text()
                 for path in self.own.rglob('*') if path.is_file()}
        self.assertEqual({
            'etc/hosts': 'of others',
            'etc/hostname': 'storage\n',
            'etc/machine-id': '112233445566478899aabbccddeeff00\n',
            'etc/modules-load.d/lab.conf': 'dm-thin-pool\nsg\n',
            'etc/lab/shares': '/a/checkout /a/checkout\n'
                              '/a/nova /var/lib/nova\n',
            'etc/lab/network': 'link set lo up\nlink set vec0 up\n'
                               'addr add 10.77.0.20/24 dev vec0\n'
                               'link set vec1 up\n',
            'root/.ssh/authorized_keys': 'ssh-ed25519 AAAA lab\n',
        }, found)

    def test_ssh_takes_the_key(self) -> None:
        """The server ignores keys in folders that others may write to."""
        self.write()
        for folder in ('root', 'root/.ssh'):
            self.assertEqual(0o700, stat.S_IMODE(
                (self.own / folder).stat().st_mode))

    def test_written_twice(self) -> None:
        self.write()
        self.write()

    def test_command_line(self) -> None:
        words = self.setup_.command(pathlib.Path('/cache/linux'),
                                    pathlib.Path('/run/bp-0/uml'))
        self.assertEqual(['taskset', '--cpu-list'], words[:2])
        self.assertEqual('/cache/linux', words[3])
        networks = [word for word in words if word.startswith('vec')]
        options = {}
        for word in words[4:]:
            if word not in networks:
                name, _, options[name] = word.partition('=')
        wanted = {
            'mem': '1024M', 'umid': 'storage', 'uml_dir': '/run/bp-0/uml/',
            'rootfstype': 'hostfs', 'rootflags': '/cache/bookworm', 'ro': '',
            'init': '/sbin/lab-init', 'lab.overlay': str(self.own),
            'ubda': '/d/lvm', 'ubdb': '/d/other',
            # The console is the log, and the process ends with the host.
            'con': 'null', 'con0': 'null,fd:1', 'panic': '-1',
            'noreboot': '', 'systemd.journald.forward_to_console': '1'}
        self.assertEqual(wanted, {name: options[name] for name in wanted})
        self.assertEqual(
            ['vec0:transport=tap,ifname=f-storage',
             'vec1:transport=tap,ifname=g-storage'],
            [','.join(word.split(',')[:2]) for word in networks])

    def test_processors(self) -> None:
        """Hosts share them only when there are fewer."""
        self.patch(os, 'sched_getaffinity', lambda pid: {2, 5, 7})
        found = [dataclasses.replace(self.setup_, number=number).command(
            pathlib.Path('/cache/linux'), pathlib.Path('/run'))[2]
            for number in range(4)]
        self.assertEqual(['2', '5', '7', '2'], found)

    def test_first_process_reads_these(self) -> None:
        """The names of the files are those that init.sh has."""
        script = (pathlib.Path(kernel_host.__file__).parent / 'files' /
                  'init.sh').read_text()
        for word in ('lab.overlay=*)', '/mnt/own/etc/lab/shares',
                     '/mnt/own/etc/lab/network'):
            self.assertIn(word, script)


class TestPanic(lab_base.LabTest):

    def panic(self, text: str) -> str:
        log = self.folder / 'log'
        log.write_bytes(text.encode('latin-1'))
        return kernel_host.panic(log)

    def test_the_last_one(self) -> None:
        self.assertEqual(
            'Kernel panic - not syncing: VFS: Unable to mount root fs',
            self.panic('Kernel panic - not syncing: of an earlier start\n'
                       '\xff\x00\n[ 1.2] Kernel panic - not syncing: VFS: '
                       'Unable to mount root fs\nAborted\n'))

    def test_none(self) -> None:
        self.assertEqual('', self.panic('systemd[1]: a service panicked\n'))
        self.assertEqual('', kernel_host.panic(self.folder / 'none'))


class HostTest(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.hosts = self.useFixture(
            fake_host.FakeHosts(self.folder / 'fake'))
        self.shell = self.make_shell()

    def make_shell(self) -> kernel_host.Shell:
        return kernel_host.Shell(
            'storage', ADDRESS, ['nsenter', '--net=/run/netns/x', '--'],
            self.folder / 'key', self.folder / 'socket',
            path=str(self.hosts.bin))


class TestShell(HostTest):

    def test_words_arrive_as_they_are(self) -> None:
        words = ['a b', "it's", '"$HOME"', '*', '\\', 'x\ny', '', '-n', '&;']
        done = self.shell.run(['printf', '%s\\0', *words])
        self.assertEqual(''.join(f'{word}\0' for word in words), done.stdout)

    def test_environment(self) -> None:
        done = self.shell.run(['sh', '-c', 'echo "$LANG,$GREETING,$PATH"'],
                              {'GREETING': 'good $day'})
        self.assertEqual(
            f'C.UTF-8,good $day,{self.hosts.bin}:/usr/sbin:/usr/bin:/sbin:'
            '/bin\n', done.stdout)

    def test_path_of_the_system(self) -> None:
        shell = kernel_host.Shell('storage', ADDRESS, [], self.folder / 'key',
                                  self.folder / 'socket')
        self.assertEqual('/usr/sbin:/usr/bin:/sbin:/bin\n',
                         shell.run(['sh', '-c', 'echo "$PATH"']).stdout)

    def test_input(self) -> None:
        done = self.shell.run(['cat'], input='secret')
        self.assertEqual('secret', done.stdout)
        raw: Any = self.shell.run(['cat'], text=False, input=b'\xff')
        self.assertEqual(b'\xff', raw.stdout)

    def test_input_of_the_caller_is_left_alone(self) -> None:
        kept = os.dup(0)
        self.addCleanup(os.close, kept)
        self.addCleanup(os.dup2, kept, 0)
        end, own = os.pipe()
        os.write(own, b'for somebody else')
        os.close(own)
        os.dup2(end, 0)
        os.close(end)
        self.assertEqual('', self.shell.run(['cat']).stdout)

    def test_where_the_host_can_be_reached(self) -> None:
        words = self.shell.command(['true'])
        self.assertEqual(['nsenter', '--net=/run/netns/x', '--', 'ssh'],
                         words[:4])
        self.assertIn(f'ControlPath={self.folder}/socket', words)
        self.assertEqual(str(self.folder / 'key'),
                         words[words.index('-i') + 1])
        # Neither the user's configuration nor a question.
        self.assertEqual('/dev/null', words[words.index('-F') + 1])
        self.assertIn('BatchMode=yes', words)

    def test_read(self) -> None:
        self.assertEqual('said\n', self.shell.read('echo', 'said'))

    def test_read_of_a_command_that_fails(self) -> None:
        error = self.assertRaises(
            errors.LabError, self.shell.read, 'sh', '-c',
            'echo said; echo "no  such" >&2; echo device >&2; exit 5')
        self.assertTrue(error.message.startswith("storage: sh -c 'echo said"),
                        error.message)
        self.assertTrue(error.message.endswith(': no such device'),
                        error.message)

    def test_read_of_a_command_that_fails_silently(self) -> None:
        error = self.assertRaises(errors.LabError, self.shell.read, 'false')
        self.assertEqual('storage: false: 1', error.message)

    def test_read_on_a_host_that_is_down(self) -> None:
        self.hosts.cut_off(ADDRESS)
        error = self.assertRaises(errors.LabError, self.shell.read, 'true')
        self.assertEqual('storage: true: ssh: connect to host 10.77.0.20 '
                         'port 22: No route to host', error.message)


class TestUnit(HostTest):

    def setUp(self) -> None:
        super().setUp()
        self.log = self.folder / 'log'
        self.unit = kernel_host.Unit(self.shell, 'cinder-volume', self.log)

    def start(self, script: str, **env: str) -> None:
        self.unit.start(['sh', '-c', script], env)

    def test_lives_until_stopped(self) -> None:
        self.assertFalse(self.unit.alive)
        self.start('exec sleep 60')
        self.assertTrue(self.unit.alive)
        self.unit.check()
        pid = self.hosts.units(ADDRESS)['cinder-volume']
        self.unit.stop()
        self.assertFalse(self.unit.alive)
        self.assertIsNone(processes.start_ticks(pid))

    def test_environment_and_log(self) -> None:
        self.log.write_text('of an earlier start\n')
        self.start('echo "$A,$LANG,$PATH"; echo wrong >&2; exec sleep 60',
                   A='b c')
        wait.until(lambda: 'wrong' in self.log.read_text(), 'the log', 10)
        self.assertEqual(
            'of an earlier start\n'
            f'b c,C.UTF-8,{self.hosts.bin}:/usr/sbin:/usr/bin:/sbin:/bin\n'
            'wrong\n', self.log.read_text())

    def test_ends_unasked(self) -> None:
        self.start('echo no space left; exit 1')
        wait.until(lambda: not self.unit.alive, 'its end', 10)
        error = self.assertRaises(errors.ServiceDied, self.unit.check)
        self.assertIn('cinder-volume ended', error.message)
        self.assertIn('no space left', error.message)
        self.assertIn(str(self.log), error.message)

    def test_started_again_after_it_failed(self) -> None:
        self.start('exit 1')
        wait.until(lambda: not self.unit.alive, 'its end', 10)
        self.start('exec sleep 60')
        self.assertTrue(self.unit.alive)

    def test_started_twice(self) -> None:
        self.start('exec sleep 60')
        error = self.assertRaises(errors.LabError, self.start, 'true')
        self.assertIn('already loaded', error.message)

    def test_killed(self) -> None:
        self.start('trap "echo asked; exit" TERM; echo ready; '
                   'while :; do sleep 0.1; done')
        wait.until(lambda: 'ready' in self.log.read_text(), 'its start', 10)
        self.unit.kill()
        self.assertFalse(self.unit.alive)
        self.assertEqual('ready\n', self.log.read_text())
        self.start('exec sleep 60')
        self.assertTrue(self.unit.alive)

    def test_its_host_is_down(self) -> None:
        self.start('exec sleep 60')
        self.hosts.cut_off(ADDRESS)
        self.assertFalse(self.unit.alive)
        self.unit.stop()
        self.unit.kill()
