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
"""Running tempest, and what its plugin does in guests.

The tests themselves run on the lab; ``blockpath lab tempest``.
"""

import datetime
import io
import os
import pathlib
import re
import subprocess
import tempfile
import types
from typing import Any
from unittest import mock

import rich.console
import subunit
import testtools

from blockpath.cloud import services
from blockpath.machine import errors
from blockpath.machine import wait
from blockpath import paths
from blockpath.tempest import config
from blockpath.tempest import environment
from blockpath.tempest import runner
from blockpath.tempest.tests import disks
from tests.unit import lab_base

PLUGIN = paths.ROOT / 'blockpath' / 'tempest' / 'tests'


class TestLists(testtools.TestCase):

    def test_each_exception_says_why(self) -> None:
        for path in (runner.EXCLUDED, runner.SKIPPED):
            for pattern, reason in runner.entries(path).items():
                re.compile(pattern)
                self.assertTrue(reason, f'{path.name}: {pattern}')

    def test_comments_are_no_entries(self) -> None:
        with tempfile.NamedTemporaryFile('w', suffix='.txt') as file:
            file.write('# all\n\n^a\\.b  # no hardware\n^c$\n')
            file.flush()
            self.assertEqual({r'^a\.b': 'no hardware', '^c$': ''},
                             runner.entries(pathlib.Path(file.name)))

    def test_names_without_tags(self) -> None:
        self.assertEqual('a.B.test_c', runner.short('a.B.test_c[id-1,slow]'))
        self.assertEqual('a.B', runner.short('setUpClass (a.B)'))

    def test_unexpected_skips(self) -> None:
        with mock.patch.object(runner, 'entries',
                               return_value={r'^a\.B\.': 'why'}):
            self.assertEqual(['x.a.B.c'],
                             runner.unexpected(['a.B.c', 'x.a.B.c']))


class TestResults(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.failures = pathlib.Path(folder.name) / 'failures.log'
        self.out = io.StringIO()
        self.results = runner.Results(
            rich.console.Console(file=self.out, width=200), self.failures)
        self.results.startTestRun()

    def end(self, name: str, status: str, **details: str) -> None:
        now = datetime.datetime.now(datetime.timezone.utc)
        self.results.status(name, 'inprogress', timestamp=now)
        for key, text in details.items():
            self.results.status(name, file_name=key, mime_type='text/plain',
                                file_bytes=text.encode(), eof=True)
        self.results.status(name, status, timestamp=now)

    def test_each_way_to_end(self) -> None:
        self.results.status('a.B.c', 'exists')
        self.end('a.B.c[id-1]', 'success')
        self.end('a.B.d', 'skip', reason='no\nhardware')
        self.end('a.B.e', 'fail', traceback='boom')
        self.results.stopTestRun()
        self.assertEqual('1 passed, 1 failed, 1 skipped',
                         str(self.results.counts))
        self.assertEqual({'a.B.d': 'no hardware'}, self.results.skipped)
        self.assertEqual(['a.B.e'], self.results.failed)
        self.assertEqual(['a.B.c (0 s) ok', 'a.B.d (0 s) skipped: no hardware',
                          'a.B.e (0 s) FAILED'],
                         self.out.getvalue().splitlines())
        self.assertIn('boom', self.failures.read_text())


class TestRun(lab_base.LabTest):
    """With a program in place of tempest's Python."""

    def setUp(self) -> None:
        super().setUp()
        self.program = self.folder / 'python'
        self.lab: Any = types.SimpleNamespace(
            daemons=services.Daemons(self.site))
        for target, name, value in (
                (runner, 'FOLDER', self.folder / 'build'),
                (environment, 'python', lambda: self.program),
                (environment, 'site_packages', lambda: self.folder)):
            patcher = mock.patch.object(target, name, value)
            patcher.start()
            self.addCleanup(patcher.stop)

    def run_tempest(self, script: str) -> runner.Results:
        self.program.write_text(f'#!/bin/sh\n{script}\n')
        self.program.chmod(0o755)
        console = rich.console.Console(file=io.StringIO())
        return runner.run(self.lab, self.folder, None, console)

    def test_it_runs_where_its_commands_find_the_hosts(self) -> None:
        """The connections to them are files of this machine's /run."""
        error = self.assertRaises(
            errors.LabError, self.run_tempest,
            'readlink /proc/self/ns/mnt >mounts; mktemp >temporary')
        self.assertIn('ran no test', str(error))
        self.assertEqual(os.readlink('/proc/self/ns/mnt'),
                         (self.folder / 'mounts').read_text().strip())
        temporary = pathlib.Path(
            (self.folder / 'temporary').read_text().strip())
        # It is private, and goes with the lab.
        self.assertEqual(self.folder, temporary.parent)

    def test_a_failure_of_stestr_itself(self) -> None:
        now = datetime.datetime.now(datetime.timezone.utc)
        stream = io.BytesIO()
        result = subunit.StreamResultToBytes(stream)
        for status in ('inprogress', 'success'):
            result.status('a.B.c', status, timestamp=now)
        (self.folder / 'results').write_bytes(stream.getvalue())
        passed = self.run_tempest('cat results')
        self.assertEqual('1 passed, 0 failed, 0 skipped',
                         str(passed.counts))
        error = self.assertRaises(errors.LabError, self.run_tempest,
                                  'cat results; exit 7')
        self.assertIn('exit code 7', str(error))


class TestPlugin(testtools.TestCase):

    def test_every_class_is_asked_for(self) -> None:
        """By a flag of its own that is off unless it is set."""
        flags = {opt.name: opt.default for opt in config.OPTS}
        for path in PLUGIN.glob('test_*.py'):
            source = path.read_text('utf-8')
            found = re.findall(r"^    flag = '(\w+)'", source, re.M)
            self.assertEqual(len(re.findall(r'^class ', source, re.M)),
                             len(found), path.name)
            for flag in found:
                self.assertIs(False, flags[flag])

    def test_ids_are_of_one_test(self) -> None:
        ids = [found for path in PLUGIN.glob('test_*.py') for found in
               re.findall(r"idempotent_id\('(.*?)'\)", path.read_text())]
        self.assertTrue(ids)
        self.assertEqual(len(set(ids)), len(ids))


class Client:
    """Runs in this machine's shell what is for a guest's.

    :param shell: ``sh``, or ``busybox sh``
    """

    def __init__(self, shell: str, folder: pathlib.Path) -> None:
        self.shell = shell
        self.sudo = folder / 'sudo'
        self.sudo.write_text('#!/bin/sh\nexec "$@"\n')
        self.sudo.chmod(0o755)

    def exec_command(self, command: str) -> str:
        return subprocess.run(
            [*self.shell.split(), '-c', command.replace(
                'sudo sh', f'{self.sudo} {self.shell}', 1)], check=True,
            stdout=subprocess.PIPE, text=True).stdout


class Disk(disks.GuestDisk):
    """A file. This machine's kernel need not forget it."""

    def _forget(self) -> None:
        pass


class TestDisk(testtools.TestCase):

    def disk(self, shell: str) -> Disk:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        root = pathlib.Path(folder.name)
        disk = Disk(Client(shell, root), 'vdb')
        disk.path = f'{root}/disk'
        disk.RUN = f'{root}/run'
        (root / 'disk').touch()
        return disk

    def write(self, disk: Disk) -> int:
        disk.start_writer()
        self.addCleanup(pathlib.Path(disk.RUN, 'writing').unlink,
                        missing_ok=True)
        first = disk.wait_written(0, 20)
        self.assertGreater(disk.wait_written(first, 20), first)
        return disk.stop_writer()

    def test_what_is_written_is_read(self) -> None:
        for shell in ('sh', 'busybox sh'):
            disk = self.disk(shell)
            count = self.write(disk)
            path = pathlib.Path(disk.path)
            self.assertEqual(512 * count, path.stat().st_size)
            disk.check_written(count)
            whole = path.read_bytes()
            for damaged in (
                    # One block is another's, is gone, has one wrong byte.
                    whole[512:1024] + whole[512:], whole[:512 * (count - 1)],
                    whole[:3] + b'1' + whole[4:],
                    whole[:512] + bytes(512) + whole[1024:]):
                path.write_bytes(damaged)
                self.assertRaises(disks.WriterError, disk.check_written,
                                  count)

    def test_a_write_that_fails(self) -> None:
        for shell in ('sh', 'busybox sh'):
            disk = self.disk(shell)
            disk.path = '/dev/full'
            disk.start_writer()
            ended = pathlib.Path(disk.RUN, 'ended')
            wait.until(ended.exists, 'the writer to end', 20, 0.05)
            self.assertRaises(disks.WriterError, disk.stop_writer)

    def test_a_writer_that_is_stuck(self) -> None:
        disk = self.disk('sh')
        pathlib.Path(disk.RUN).mkdir()
        self.assertRaises(disks.WriterError, disk.wait_written, 0, 0.1)
