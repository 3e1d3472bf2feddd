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
"""A record names one process, never another that has its number."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

from blockpath.machine import errors
from blockpath.machine import processes
from tests.unit import lab_base

STUBBORN = '''
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(['sleep', '60'])
print(child.pid, flush=True)
time.sleep(60)
'''
#: Its first thread ends by pthread_exit(), which ends that one only.
HEADLESS = '''
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
print('ready', flush=True)
ctypes.CDLL(None).pthread_exit(None)
'''
#: Ends when asked, and does not wait for its child, which has a group of
#: its own.
HASTY = '''
import os, subprocess, time
child = subprocess.Popen(['sleep', '60'], process_group=0)
print(child.pid, flush=True)
time.sleep(60)
'''
TIDY = '''
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print('bye', flush=True))
print('ready', flush=True)
time.sleep(60)
'''


class TestProcesses(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.records = processes.Records(self.site.run, self.site.log)

    def spawn(self, *argv: str) -> processes.Process:
        process = self.records.spawn('thing', argv, dict(os.environ))
        self.addCleanup(processes.end, process, 0)
        return process

    def wait_for_log(self) -> str:
        for _ in range(500):
            text = (self.site.log / 'thing.log').read_text()
            if text:
                return text
            time.sleep(0.02)
        self.fail('nothing was logged')

    def test_found_again(self) -> None:
        process = self.spawn('sleep', '60')
        self.assertEqual(process, self.records.get('thing'))
        self.assertEqual([process], self.records.all())
        self.assertTrue(process.alive)

    def test_another_process_with_its_number(self) -> None:
        process = self.spawn('sleep', '60')
        self.assertFalse(
            dataclasses.replace(process, start=process.start - 1).alive)
        self.assertFalse(dataclasses.replace(process, boot='other').alive)

    def test_zombie_is_dead(self) -> None:
        child = subprocess.Popen(['true'])
        self.addCleanup(child.wait)
        for _ in range(500):
            if processes.start_ticks(child.pid) is None:
                return
            time.sleep(0.02)
        self.fail('a zombie counts as alive')

    def test_threads_that_outlive_the_first_are_alive(self) -> None:
        process = self.spawn(sys.executable, '-c', HEADLESS)
        self.wait_for_log()
        status = pathlib.Path(f'/proc/{process.pid}/status')
        for _ in range(500):
            if 'State:\tZ' in status.read_text():
                break
            time.sleep(0.02)
        self.assertTrue(process.alive)
        processes.end(process, 5)
        self.assertFalse(process.alive)
        self.assertFalse(status.exists())

    def test_dead_service_is_named_with_its_log(self) -> None:
        process = self.spawn(sys.executable, '-c',
                             'import time; print("first"); print("why", '
                             'flush=True); time.sleep(60)')
        self.wait_for_log()
        processes.end(process, 5)
        error = self.assertRaises(errors.ServiceDied, process.check)
        self.assertEqual('thing', error.name)
        self.assertIn('thing.log', str(error))
        self.assertEqual(['    first', '    why'],
                         str(error).splitlines()[1:])

    def test_stubborn_process_and_its_child(self) -> None:
        process = self.spawn(sys.executable, '-c', STUBBORN)
        child = int(self.wait_for_log())
        processes.end(process, 0.1)
        self.assertFalse(process.alive)
        self.assertIsNone(processes.start_ticks(child))

    def test_child_that_outlives_it(self) -> None:
        process = self.spawn(sys.executable, '-c', HASTY)
        child = int(self.wait_for_log())
        processes.end(process, 0.5)
        self.assertFalse(process.alive)
        self.assertIsNone(processes.start_ticks(child))

    def test_child_of_one_that_was_killed(self) -> None:
        process = self.spawn(sys.executable, '-c', HASTY)
        child = int(self.wait_for_log())
        os.kill(process.pid, signal.SIGKILL)
        os.waitpid(process.pid, 0)
        processes.kill(process)
        self.assertIsNone(processes.start_ticks(child))

    def test_session_of_a_stranger(self) -> None:
        process = self.spawn('sleep', '60')
        for other in (dataclasses.replace(process, start=process.start - 1),
                      dataclasses.replace(process, boot='other')):
            processes.end(other, 0)
        self.assertTrue(process.alive)

    def test_killed_without_a_word(self) -> None:
        process = self.spawn(sys.executable, '-c', TIDY)
        self.wait_for_log()
        processes.kill(process)
        self.assertFalse(process.alive)
        self.assertEqual(['ready'], process.tail())

    def test_broken_record_is_none(self) -> None:
        for text in ('', '{"pid": 1}', '{'):
            (self.site.run / 'thing.json').write_text(text)
            self.assertIsNone(self.records.get('thing'))
            self.assertEqual([], self.records.all())

    def test_tail_of_a_long_log(self) -> None:
        log = pathlib.Path(self.site.log / 'thing.log')
        log.write_text(''.join(f'{i}\n\n' for i in range(20000)))
        process = processes.Process('thing', 0, 0, '', str(log))
        self.assertEqual(['19998', '19999'], process.tail(2))


class TestBound(lab_base.LabTest):

    def test_stubborn_program_and_its_child_end_with_the_block(self) -> None:
        with processes.bound([sys.executable, '-c', STUBBORN],
                             stdout=subprocess.PIPE) as process:
            assert process.stdout
            child = int(process.stdout.readline())
            self.assertIsNotNone(processes.start_ticks(child))
        self.assert_ended(process.pid, child)

    def test_program_ends_with_its_starter(self) -> None:
        starter = subprocess.Popen(
            [sys.executable, '-c',
             'import time\n'
             'from blockpath.machine import processes\n'
             'with processes.bound(["sleep", "60"]) as process:\n'
             '    print(process.pid, flush=True)\n'
             '    time.sleep(60)\n'], stdout=subprocess.PIPE)
        assert starter.stdout
        program = int(starter.stdout.readline())
        self.assertIsNotNone(processes.start_ticks(program))
        starter.kill()
        starter.communicate()
        self.assert_ended(program)

    def assert_ended(self, *pids: int) -> None:
        for _ in range(500):
            left = [pid for pid in pids if processes.start_ticks(pid)]
            if not left:
                return
            time.sleep(0.02)
        self.fail(f'processes {left} are left')
