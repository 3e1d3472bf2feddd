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
"""Copies that QEMU makes, here between files."""

import os
import shutil
import stat
import subprocess
import time
import unittest

import fixtures
from oslo_serialization import jsonutils

from cinder.tests.unit import test
from cinder.tests.unit.volume.copier import fakes
from cinder.volume.copier import engine
from cinder.volume.copier import limits
from cinder.volume.copier import local_file
from cinder.volume.copier import native
from cinder.volume.copier import qemu_copy

MIB = 1 << 20
SIZE = 4 * MIB + 512


class Base(test.TestCase):

    def setUp(self):
        super().setUp()
        self.folder = self.useFixture(fixtures.TempDir())
        self.content = os.urandom(MIB) + bytes(2 * MIB) + os.urandom(
            MIB + 512)
        self.source = self.file('source', self.content)
        self.destination = self.file('destination', b'\xff' * (SIZE + MIB),
                                     True)

    def file(self, name, content, writable=False):
        path = self.folder.join(name)
        with open(path, 'wb') as file:
            file.write(content)
        volume = local_file.LocalFile.open(path, writable)
        volume.qemu = {'driver': 'file', 'filename': path}, {}
        self.addCleanup(volume.close)
        return volume

    def copy(self, length=SIZE, **options):
        return native.call(qemu_copy.copy, self.source, self.destination,
                           length, engine.Options(**options))

    def read(self):
        with open(self.folder.join('destination'), 'rb') as file:
            return file.read()


@unittest.skipUnless(shutil.which('qemu-img'), 'needs qemu-img')
class QEMUCopyTestCase(Base):

    def test_copies_exactly_the_length(self):
        progress = self.copy(SIZE - 512)
        self.assertEqual(
            self.content[:-512] + b'\xff' * (MIB + 512), self.read())
        self.assertEqual((SIZE - 512, SIZE - 512, None),
                         (progress.done, progress.length, progress.written))

    def test_zeros_are_left_out_of_what_reads_as_zeros(self):
        # A lie, to see the difference.
        self.copy(destination_is_zero=True)
        self.assertEqual(
            self.content[:MIB] + b'\xff' * 2 * MIB + self.content[3 * MIB:],
            self.read()[:SIZE])
        self.copy(destination_is_zero=False)
        self.assertEqual(self.content, self.read()[:SIZE])

    def test_an_end_that_is_too_small(self):
        self.assertRaises(engine.CopyError, self.copy, SIZE + 1)

    def test_what_qemu_can_not_open(self):
        self.source.qemu[0]['filename'] = '/nonexistent'
        error = self.assertRaises(engine.CopyError, self.copy)
        self.assertIn('No such file', str(error))

    def test_a_source_that_became_smaller(self):
        check = self.mock_object(self.source, 'check',
                                 side_effect=OSError(5, 'smaller'))
        self.assertRaises(OSError, self.copy)
        check.assert_called_once_with()

    def test_is_flushed_though_others_have_written(self):
        calls = []
        self.mock_object(self.destination, 'written_past',
                         lambda: calls.append('written'))
        self.mock_object(self.destination, '_flush',
                         lambda: calls.append('flush'))
        self.copy()
        self.assertEqual(['written', 'flush'], calls)

    def test_a_flush_that_fails(self):
        self.mock_object(self.destination, '_flush',
                         side_effect=OSError(5, 'EIO'))
        self.assertRaises(OSError, self.copy)


class PretendedBase(Base):
    """With a program that does not copy."""

    def program(self, script):
        path = self.folder.join('pretended')
        with open(path, 'w') as file:
            file.write(f'#!/bin/sh\n{script}\n')
        os.chmod(path, stat.S_IRWXU)
        self.mock_object(qemu_copy, '_PROGRAM', path)


class PretendedTestCase(PretendedBase):

    def test_progress(self):
        self.program('printf "    (0.00/100%%)\\r    (50.00/100%%)\\r";'
                     'exec sleep 60')
        progress = engine.Progress()
        looks = []

        def cancelled():
            looks.append(progress.done)
            return progress.done or len(looks) > 100
        self.assertRaises(
            engine.Cancelled, native.call, qemu_copy.copy, self.source,
            self.destination, SIZE, engine.Options(cancelled=cancelled),
            progress)
        self.assertEqual(SIZE // 2, progress.done)

    def test_nothing_goes_on(self):
        self.program('exec sleep 60')
        error = self.assertRaises(engine.CopyError, self.copy, stall=0.3)
        self.assertIn('nothing was read', str(error))

    def moving(self, bytes_a_tick):
        self.program('exec sleep 1.5')
        self.mock_object(qemu_copy._Convert, 'moved',
                         lambda child, moved=[0]: moved.append(
                             moved[-1] + bytes_a_tick) or moved[-1])
        self.copy(stall=0.5)

    def test_bytes_that_move_are_progress(self):
        self.moving(512)

    def test_that_it_wakes_up_is_no_progress(self):
        self.assertRaises(engine.CopyError, self.moving, 96)

    def test_a_kernel_that_does_not_count(self):
        self.program('exec sleep 1.5')
        self.mock_object(qemu_copy._Convert, 'moved', lambda child: None)
        self.copy(stall=0.5)

    def test_killed(self):
        self.program('kill -9 $$')
        self.assertRaises(engine.CopyError, self.copy)

    def test_ends_hear_of_what_was_killed(self):
        self.program('exec sleep 60')
        heard = []
        for file in (self.source, self.destination):
            self.mock_object(file, 'killed_beside',
                             lambda name=file.name: heard.append(name))
        self.assertRaises(engine.CopyError, self.copy, stall=0.3)
        self.assertEqual(2, len(heard))

    def test_what_it_says_is_the_reason(self):
        self.program('printf "    (3.00/100%%)\\r"; '
                     'echo "$0: error while writing: No space" >&2; exit 1')
        error = self.assertRaises(engine.CopyError, self.copy)
        self.assertTrue(str(error).endswith(
            'failed: error while writing: No space'), str(error))

    def test_it_is_gone_afterwards(self):
        self.program('echo $$ > "$0.pid"; exec sleep 60')
        self.assertRaises(engine.CopyError, self.copy, stall=1)
        with open(self.folder.join('pretended.pid')) as file:
            self.assertRaises(ProcessLookupError, os.kill, int(file.read()),
                              0)

    def test_no_program(self):
        self.mock_object(qemu_copy, '_PROGRAM', 'no-such-program')
        self.assertRaises(engine.CopyError, self.copy)


class FallbackTestCase(PretendedBase):
    """Which of the two copies, seen by what is there afterwards."""

    def setUp(self):
        super().setUp()
        self.source.qemu[0]['driver'] = 'iscsi'

    def copy(self):
        return native.copy(self.source, self.destination, SIZE)

    def test_qemu(self):
        self.program('exit 0')
        self.assertIsNone(self.copy().written)
        self.assertEqual(b'\xff', self.read()[:1])

    def test_a_failure_before_it_begins(self):
        self.program('echo "Unknown driver" >&2; exit 1')
        progress = self.copy()
        self.assertEqual(self.content, self.read()[:SIZE])
        self.assertLess(0, progress.written)

    def test_no_program(self):
        self.mock_object(qemu_copy, '_PROGRAM', 'no-such-program')
        self.copy()
        self.assertEqual(self.content, self.read()[:SIZE])

    def test_a_failure_afterwards(self):
        self.program('printf "    (3.00/100%%)\\r"; exit 1')
        self.assertRaises(engine.CopyError, self.copy)
        self.assertEqual(b'\xff', self.read()[:1])


class CommandTestCase(test.TestCase):

    def command(self, source, destination, **options):
        files = []
        for driver in (source, destination):
            file = fakes.MemoryFile(b'')
            file.qemu = ({'driver': driver, 'password-secret': 'chap'},
                         {'chap': f'of {len(files)}'})
            files.append(file)
        arguments, secrets = qemu_copy._command(
            *files, 512, False, engine.Options(**options))
        return (arguments, secrets,
                [jsonutils.loads(argument.removeprefix('json:'))['file']
                 for argument in arguments if argument.startswith('json:')])

    def test_secrets_of_both_ends(self):
        arguments, secrets, (source, destination) = self.command(
            'iscsi', 'iscsi')
        self.assertEqual('of 0', secrets[source['password-secret']])
        self.assertEqual('of 1', secrets[destination['password-secret']])
        self.assertNotIn('of 0', ' '.join(arguments))

    def test_flushes_of_a_lun_are_ours(self):
        for source, destination in (('rbd', 'iscsi'), ('iscsi', 'rbd')):
            arguments, __, ends = self.command(source, destination)
            self.assertEqual(
                [None, {'direct': True, 'no-flush': True}
                 if destination == 'iscsi' else None],
                [end.get('cache') for end in ends])
            self.assertEqual('none', arguments[arguments.index('-t') + 1])
            self.assertEqual('none', arguments[arguments.index('-T') + 1])

    def test_fewer_requests_than_blocks(self):
        for in_flight, requests in ((1, '1'), (16, '12'), (64, '16')):
            arguments, *__ = self.command('iscsi', 'rbd', in_flight=in_flight)
            self.assertEqual(requests, arguments[arguments.index('-m') + 1])


class EndTestCase(test.TestCase):

    def test_it_is_noticed_when_it_happens(self):
        process = subprocess.Popen(['cat'], stdin=subprocess.PIPE)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        qemu_copy._await_end(process, 0.05)
        self.assertIsNone(process.returncode)
        process.stdin.close()
        began = time.monotonic()
        qemu_copy._await_end(process, 60)
        self.assertLess(time.monotonic() - began, 30)
        self.assertEqual(0, process.returncode)


class SuitsTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        self.lun = fakes.MemoryFile(b'')
        self.lun.qemu = {'driver': 'iscsi'}, {}
        self.image = fakes.MemoryFile(b'')
        self.image.qemu = {'driver': 'rbd'}, {}

    def suits(self, source, destination, **options):
        return qemu_copy.suits(source, destination, engine.Options(**options))

    def test_what_suits(self):
        self.assertTrue(self.suits(self.lun, self.image))
        self.assertTrue(self.suits(self.image, self.lun))
        self.assertFalse(self.suits(self.image, self.image))
        self.assertFalse(self.suits(self.lun, fakes.MemoryFile(b'')))

    def test_what_the_engine_has_to_do(self):
        for options in ({'start': 1}, {'limiter': limits.limiter(1)},
                        {'checkpoint': print},
                        {'verify': engine.Verify.SAMPLED}):
            self.assertFalse(self.suits(self.lun, self.image, **options))
