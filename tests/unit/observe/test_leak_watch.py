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
"""The look-out finds exposed passwords: else its silence proves nothing."""

from collections.abc import Mapping
from collections.abc import Sequence
import io
import os
import pathlib
import secrets
import signal
import subprocess
import time

import fixtures
import testtools
from testtools import matchers

from blockpath.console import progress
from blockpath.console import report as reports
from blockpath.machine import anchor
from blockpath.machine import errors
from blockpath.machine import processes
from blockpath.machine import topology
from blockpath.machine import wait
from blockpath.observe import leak_agent
from blockpath.observe import leak_watch

# Other processes run these tests at the same time: not one word for all.
WORD = secrets.token_hex(8)
HERE = leak_watch.HERE
HOSTS = (HERE, 'cmp1', 'cmp2')


class _Lab:
    """As much of a lab as is looked at; its hosts are this machine."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.site = topology.Site(state=folder / 'lab')
        self.storage: leak_watch.Storage = self
        self.hosts: leak_watch.Hosts = self
        self.words: set[str] = set()
        self.wrappers: dict[str, Sequence[str]] = {
            'cmp1': ['env'], 'cmp2': ['env']}

    def passwords(self) -> set[str]:
        return self.words

    def commands(self) -> Mapping[str, leak_watch.Command]:
        return {host: self._command(host) for host in self.wrappers}

    def _command(self, host: str) -> leak_watch.Command:
        return lambda argv: [
            'env', f'PATH={self.folder}/bin:{os.environ["PATH"]}',
            *self.wrappers[host], *argv]


def failed(report: reports.Report) -> list[str]:
    return [check.name for check in report.checks if not check.passed]


class LookoutTestCase(testtools.TestCase):
    """Real agents; the folders that they search are the test's own."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path)
        self.lab = _Lab(self.folder)
        for name in ('bin', 'tmp', 'anchor', 'host', 'host-logs', 'lab/log',
                     'lab/run'):
            (self.folder / name).mkdir(parents=True)
        self.patch(leak_watch, '_TEMPORARY', (f'{self.folder}/tmp',))
        self.patch(leak_watch, '_LOGS_ON_HOST', (f'{self.folder}/host-logs',))
        self.patch(leak_watch, '_FOLDERS_ON_HOST', (f'{self.folder}/host',))
        self.patch(anchor, 'TEMPORARY', f'{self.folder}/anchor')
        records = processes.Records(self.lab.site.run, self.lab.site.log)
        for host in topology.NAMESPACES:
            records.record(f'anchor-{host.name}', os.getpid())
        self.journal('nothing')
        self.watch = leak_watch.Lookout(self.lab, {WORD})

    def journal(self, text: str, code: int = 0) -> None:
        program = self.folder / 'bin' / 'journalctl'
        program.write_text(f'#!/bin/sh\necho "{text}"\nexit {code}\n')
        program.chmod(0o755)

    def write(self, path: str, text: str = f'password: {WORD}',
              mode: int = 0o600, size: int | None = None) -> str:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        if size:
            os.truncate(file, size)
        # As if it was written in the block: agents take a while to start.
        later = time.time() + 600
        os.utime(file, (later, later))
        return str(file)

    def looked(self) -> leak_watch.Lookout:
        """Return the look-out after a block without any events."""
        with self.watch:
            pass
        self.watch.collect()
        return self.watch

    def told(self, no_devices: bool = False) -> reports.Report:
        out = io.StringIO()
        report = reports.Report(progress.Plain(out), self.folder,
                                leak_watch.checks(no_devices=no_devices))
        self.watch.tell(report, no_devices=no_devices)
        self.assertEqual(list(report.expected),
                         [check.name for check in report.checks])
        self.assertNotIn(WORD, out.getvalue())
        return report


def show(word: str, seconds: float, times: int = 1) -> None:
    for _ in range(times):
        subprocess.run(['sh', '-c', f'sleep {seconds}; :',
                        f'--password={word}'], check=True)


class CommandLineTest(LookoutTestCase):

    def test_shown_for_a_moment(self) -> None:
        with self.watch:
            # On a busy machine an agent may miss the first.
            show(WORD, 0.06, times=6)
        report = self.told()
        self.assertEqual(
            sorted(f'{host}: sh -c sleep 0.06; : --password=***'
                   for host in HOSTS),
            sorted(line.strip() for line in self.watch.exposed()))
        [command_lines, files] = report.checks
        self.assertFalse(command_lines.passed)
        self.assertIn('cmp2: sh -c sleep 0.06; : --password=***',
                      command_lines.figure)
        self.assertTrue(files.passed, files.figure)

    def test_shown_before_the_password_is_known(self) -> None:
        word = secrets.token_hex(8)
        with self.watch:
            show(word, 0.3)
            self.lab.words = {word}
            time.sleep(2 * leak_watch._PAUSE)
            self.lab.words = set()
        self.watch.collect()
        self.assertEqual(len(HOSTS), len(self.watch.exposed()))
        self.assertNotIn(word, str(self.watch.exposed()))

    def test_shown_at_the_end(self) -> None:
        """A password that comes just before the end is known as well."""
        word = secrets.token_hex(8)
        with self.watch:
            show(word, 0.3)
            self.lab.words = {word}
        self.watch.collect()
        self.assertEqual(len(HOSTS), len(self.watch.exposed()))

    def test_a_program_that_takes_a_password_there(self) -> None:
        """rtstool does, where it needs one; iscsiadm must not."""
        rtstool = '/a/bin/python /a/bin/cinder-rtstool '
        others = ['iscsiadm -m node -T iqn.2026-01.a:b -p 10.77.0.20:3260 '
                  '--op update -n node.session.auth.password -v ***',
                  'sh -c iscsiadm --password ***', rtstool + 'delete ***']
        self.watch.answers['cmp1'] = leak_watch.Answer(
            exposed=[rtstool + 'create /dev/a/b iqn.2026-01.a:b user *** ',
                     rtstool + 'add-initiator iqn.2026-01.a:b user *** c',
                     *others],
            devices=[], files=[], journal=False, sessions=[], looks=1)
        self.assertEqual([f'cmp1: {line}' for line in others],
                         self.watch.exposed())

    def test_passwords_that_begin_alike(self) -> None:
        self.lab.words = {WORD + 'a', WORD + 'ab'}
        with self.watch:
            show(WORD + 'ab', 0.3)
        self.watch.collect()
        for line in self.watch.exposed():
            self.assertTrue(line.strip().endswith('--password=***'), line)

    def test_nothing_to_see(self) -> None:
        # The command lines of the agents themselves are among all others.
        with self.watch:
            time.sleep(0.3)
        report = self.told(no_devices=True)
        self.assertEqual([], failed(report))
        for check in report.checks:
            self.assertThat(check.figure, matchers.MatchesRegex(
                r'looks: this machine [1-9]\d*, cmp1 [1-9]\d*, '
                r'cmp2 [1-9]\d*; passwords: 1$'))


class FilesTest(LookoutTestCase):

    def test_on_this_machine(self) -> None:
        found = [self.write(path) for path in (
            'lab/log/nova.log', 'lab/log/cmp1/console-1.log', 'anchor/note',
            'lab/hosts/cmp1/libvirt/qemu/guest.log')]
        self.write('lab/hosts/cmp1/libvirt/secret')
        found[2] = f'/proc/{os.getpid()}/root{found[2]}'
        self.assertEqual(
            {f'{HERE}: {path} (mode 0600)' for path in found},
            set(self.looked().files()))

    def test_on_hosts(self) -> None:
        found = [self.write('host/below/note', mode=0o640),
                 self.write('host-logs/syslog', mode=0o640)]
        self.assertEqual(
            {f'{host}: {path} (mode 0640)' for host in HOSTS[1:]
             for path in found}, set(self.looked().files()))

    def test_verdict(self) -> None:
        note = self.write('host/note')
        with self.watch:
            pass
        report = self.told(no_devices=True)
        self.assertEqual(['no log or temporary file holds a CHAP password'],
                         failed(report))
        self.assertIn(f'cmp1: {note}', report.checks[-1].figure)

    def test_written_in_the_block(self) -> None:
        (self.folder / 'tmp' / 'below').mkdir()
        with self.watch:
            (self.folder / 'tmp' / 'below' / 'note').write_text(WORD)
            (self.folder / 'tmp' / 'below' / 'note').chmod(0o600)
        self.watch.collect()
        self.assertEqual([f'{HERE}: {self.folder}/tmp/below/note '
                          '(mode 0600)'], self.watch.files())

    def test_old_and_large_files(self) -> None:
        old = time.time() - 60
        for path in ('tmp/old', 'host/old', 'lab/log/old', 'host-logs/old'):
            os.utime(self.write(path), (old, old))
        for path in ('tmp/large', 'host/large', 'lab/log/large',
                     'host-logs/large'):
            self.write(path, size=17 << 20)
        self.assertEqual(
            sorted(f'{host}: {self.folder}/{folder}/{name} (mode 0600)'
                   for host, folder in ((HERE, 'lab/log'),
                                        ('cmp1', 'host-logs'),
                                        ('cmp2', 'host-logs'))
                   for name in ('large', 'old')),
            sorted(self.looked().files()))

    def test_state_of_the_lab_is_not_temporary(self) -> None:
        self.patch(leak_watch, '_TEMPORARY', (str(self.folder),))
        self.write('lab/etc/nova.conf')
        self.assertEqual([], self.looked().files())

    def test_what_is_no_file(self) -> None:
        os.mkfifo(self.folder / 'lab/log/pipe')
        (self.folder / 'lab/log/link').symlink_to(self.write('elsewhere'))
        self.assertEqual([], self.looked().files())

    def test_over_two_reads(self) -> None:
        self.write('lab/log/long', '-' * ((1 << 20) - 5) + WORD)
        self.assertEqual(1, len(self.looked().files()))

    def test_journal(self) -> None:
        self.journal(f'MESSAGE={WORD}')
        self.assertEqual(['cmp1: the journal', 'cmp2: the journal'],
                         self.looked().files())

    def test_host_of_namespaces_that_is_gone(self) -> None:
        (self.lab.site.run / 'anchor-ceph.json').unlink()
        error = self.assertRaises(errors.LabError, self.looked)
        self.assertIn('host ceph is not up', str(error))


class AllowedTest(LookoutTestCase):
    """Places that may hold passwords, below a folder of the test."""

    def setUp(self) -> None:
        super().setUp()
        host = self.folder / 'host'
        self.patch(leak_watch, 'ALLOWED', [
            leak_watch.Place(f'{host}{place.pattern}', place.reason,
                             place.session) for place in leak_watch.ALLOWED])

    def found(self) -> list[str]:
        return [path.partition(f'{self.folder}/host')[2]
                for path in self.looked().files() if path.startswith('cmp1')]

    def test_owner_only(self) -> None:
        for path in ('etc/rtslib-fb-target/saveconfig.json',
                     'etc/target/saveconfig.json',
                     'etc/libvirt/secrets/1.base64'):
            self.write(f'host/{path}', mode=0o600)
            self.write(f'host/{path}.2', mode=0o400)
        self.assertEqual([], self.found())

    def test_others_can_read(self) -> None:
        for number, mode in enumerate((0o640, 0o604, 0o700, 0o4600)):
            self.write(f'host/etc/target/{number}', mode=mode)
        self.assertEqual(['/etc/target/0 (mode 0640)',
                          '/etc/target/1 (mode 0604)',
                          '/etc/target/2 (mode 0700)',
                          '/etc/target/3 (mode 4600)'], self.found())

    def test_elsewhere(self) -> None:
        self.write('host/etc/iscsi/iscsid.conf')
        self.write('host/tmp/etc/target/saveconfig.json')
        self.assertEqual(['/etc/iscsi/iscsid.conf (mode 0600)',
                          '/tmp/etc/target/saveconfig.json (mode 0600)'],
                         self.found())

    def test_record_of_a_session(self) -> None:
        target = 'iqn.2026-01.lab.blockpath:cmp1'
        record = f'etc/iscsi/nodes/{target}/10.77.0.20,3260,1/default'
        self.write(f'host/{record}')
        self.write(f'host/var/lib/{record[4:]}')
        left = leak_watch.Answer(
            [], [], [(f'{self.folder}/host/{record}', 0o600)], False,
            [f'{target}0'], 1)
        self.assertEqual(1, len(list(left.leaks())))
        # This machine is not logged in.
        self.assertEqual([f'/{record} (mode 0600)',
                          f'/var/lib/{record[4:]} (mode 0600)'],
                         self.found())
        for mode, leaks in ((0o600, 0), (0o644, 1)):
            answer = leak_watch.Answer(
                [], [], [(f'{self.folder}/host/{record}', mode)], False,
                [target], 1)
            self.assertEqual(leaks, len(list(answer.leaks())))


class MissingTest(LookoutTestCase):
    """Each check fails when an agent, or a password, is missing."""

    def all_fail(self, reason: str) -> None:
        report = self.told(no_devices=True)
        self.assertEqual(leak_watch.checks(no_devices=True), failed(report))
        for check in report.checks:
            self.assertIn(reason, check.figure)

    def wrap(self, script: str) -> None:
        """Start the agent of one host by a script."""
        self.lab.wrappers['cmp2'] = ['sh', '-c', script, 'sh']

    def pid(self, host: str) -> int:
        return int((self.folder / host).read_text())

    def test_killed(self) -> None:
        self.wrap(f'echo $$ > {self.folder}/cmp2; exec "$@"')
        with self.watch:
            os.kill(self.pid('cmp2'), signal.SIGKILL)
        self.all_fail('cmp2: no answer, exit code -9')

    def test_never_started(self) -> None:
        self.wrap('echo "ssh: no route to host" >&2; exit 255')
        with self.watch:
            pass
        self.all_fail('cmp2: no answer, exit code 255: ssh: no route to host')

    def test_says_nothing(self) -> None:
        self.wrap('true')
        with self.watch:
            pass
        self.all_fail('cmp2: no answer, exit code 0')

    def test_looks_too_late(self) -> None:
        self.patch(leak_watch, '_START', 3.0)
        self.wrap('exec sleep 60')
        began = time.monotonic()
        with self.watch:
            pass
        self.all_fail('cmp2: no answer, exit code -9')
        self.assertLess(time.monotonic() - began, 50)

    def test_answers_too_late(self) -> None:
        self.patch(leak_watch, '_SEARCH', 3.0)
        self.wrap('echo "{\\"looking\\": true}"; exec sleep 60')
        with self.watch:
            pass
        self.all_fail('cmp2: no answer in time')

    def test_journal_that_can_not_be_read(self) -> None:
        self.journal('nothing', code=1)
        with self.watch:
            pass
        self.all_fail('cmp1: no answer, exit code 1: OSError')

    def test_passwords_are_not_known(self) -> None:
        def fail() -> set[str]:
            raise ValueError(WORD)

        with self.watch:
            self.patch(self.lab, 'passwords', fail)
        self.all_fail('the passwords of the targets could not be read: '
                      'ValueError')

    def test_passwords_are_known_again(self) -> None:
        asked: list[None] = []

        def fail_once() -> set[str]:
            asked.append(None)
            if len(asked) == 1:
                raise ValueError(WORD)
            return set()

        self.patch(leak_watch, '_PAUSE', 0.05)
        self.patch(self.lab, 'passwords', fail_once)
        with self.watch:
            wait.until(lambda: len(asked) > 1, 'two requests', 10)
        self.assertEqual([], failed(self.told()))

    def test_no_password_at_all(self) -> None:
        self.watch = leak_watch.Lookout(self.lab, ())
        with self.watch:
            pass
        self.all_fail('no password is known')

    def test_broken_off(self) -> None:
        """Nothing stays behind when the block raises an exception."""
        self.wrap(f'echo $$ > {self.folder}/cmp2; exec "$@"')

        def fail() -> None:
            with self.watch:
                os.kill(self.pid('cmp2'), 0)
                raise KeyError

        self.assertRaises(KeyError, fail)
        self.assertRaises(ProcessLookupError, os.kill, self.pid('cmp2'), 0)


class DevicesTest(LookoutTestCase):
    """One host has a folder of the test where others have devices."""

    def look(self) -> None:
        agent = pathlib.Path(leak_agent.__file__)
        code = (f'import sys; sys.path.insert(0, "{agent.parent}"); '
                'import leak_agent; '
                f'leak_agent.DEVICES = "{self.folder}/tmp"; leak_agent.main()')
        self.lab.wrappers['cmp1'] = ['python3', '-c', code]
        with self.watch:
            (self.folder / 'tmp' / '2:0:0:1').mkdir()
            time.sleep(0.5)
            (self.folder / 'tmp' / '2:0:0:1').rmdir()

    def test_asked_for(self) -> None:
        self.look()
        report = self.told(no_devices=True)
        self.assertEqual(['no SCSI device appeared'], failed(report))
        self.assertIn('cmp1: 2:0:0:1; looks: ', report.checks[0].figure)

    def test_not_asked_for(self) -> None:
        self.look()
        self.assertEqual([], failed(self.told()))
        self.assertEqual(['cmp1: 2:0:0:1'], self.watch.devices())
