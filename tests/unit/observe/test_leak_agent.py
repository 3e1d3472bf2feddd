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
"""What one look sees, and that the agent keeps passwords to itself."""

import json
import os
import pathlib
import secrets
import subprocess
import sys

import fixtures
import testtools

from blockpath.machine import wait
from blockpath.observe import leak_agent

WORD = secrets.token_hex(8)


class LookTest(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.devices = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.patch(leak_agent, 'DEVICES', str(self.devices))

    def becomes_another_program(self, agent: leak_agent.Agent) -> None:
        """Look at a process before and after it starts a program."""
        child = subprocess.Popen(
            ['sh', '-c', 'read word; exec sh -c "read end" --password=$word'],
            stdin=subprocess.PIPE)
        self.addCleanup(child.communicate)
        assert child.stdin
        agent.look()
        child.stdin.write(f'{WORD}\n'.encode())
        child.stdin.flush()
        self.wait_for_word(child)
        agent.look()

    def wait_for_word(self, child: 'subprocess.Popen[bytes]') -> None:
        path = pathlib.Path(f'/proc/{child.pid}/cmdline')
        wait.until(lambda: WORD in path.read_text(), 'the program', 10, 0.01)

    def is_exposed(self, agent: leak_agent.Agent) -> bool:
        return any(WORD.encode() in line for line in agent.lines)

    def test_each_look_includes_young_processes(self) -> None:
        self.patch(leak_agent, 'INTERVAL', 1000.0)
        self.patch(leak_agent, 'YOUNG', 1000.0)
        agent = leak_agent.Agent()
        agent.look()
        self.becomes_another_program(agent)
        self.assertTrue(self.is_exposed(agent))

    def test_others_have_to_wait(self) -> None:
        self.patch(leak_agent, 'INTERVAL', 1000.0)
        self.patch(leak_agent, 'YOUNG', 0.0)
        agent = leak_agent.Agent()
        agent.look()
        self.becomes_another_program(agent)
        self.assertFalse(self.is_exposed(agent))
        agent.look(of_all=True)
        self.assertTrue(self.is_exposed(agent))

    def test_some_looks_include_all_processes(self) -> None:
        self.patch(leak_agent, 'INTERVAL', 0.0)
        self.patch(leak_agent, 'YOUNG', 0.0)
        agent = leak_agent.Agent()
        self.becomes_another_program(agent)
        self.assertTrue(self.is_exposed(agent))

    def test_long_command_line(self) -> None:
        child = subprocess.Popen(['sh', '-c', 'read end', '-' * 100000, WORD],
                                 stdin=subprocess.PIPE)
        self.addCleanup(child.communicate)
        self.wait_for_word(child)
        agent = leak_agent.Agent()
        agent.look()
        self.assertTrue(self.is_exposed(agent))

    def test_devices_that_appear(self) -> None:
        (self.devices / '0:0:0:0').mkdir()
        agent = leak_agent.Agent()
        agent.look()
        (self.devices / '2:0:0:1').mkdir()
        agent.look()
        (self.devices / '2:0:0:1').rmdir()
        agent.look()
        answer = agent.answer([])
        self.assertEqual((['2:0:0:1'], 3),
                         (answer['devices'], answer['looks']))

    def test_no_kernel_with_devices(self) -> None:
        self.patch(leak_agent, 'DEVICES', '/none')
        agent = leak_agent.Agent()
        agent.look()
        self.assertEqual([], agent.answer([])['devices'])

    def test_sessions(self) -> None:
        self.patch(leak_agent, 'SESSIONS', str(self.devices))
        self.assertEqual([], leak_agent.Agent().answer([])['sessions'])
        (self.devices / 'session1').mkdir()
        (self.devices / 'session1' / 'targetname').write_text('iqn.a:b\n')
        self.assertEqual(['iqn.a:b'],
                         leak_agent.Agent().answer([])['sessions'])

    def files(self, agent: leak_agent.Agent, new: bool) -> list[str]:
        agent.passwords = {WORD.encode()}
        answer = agent.answer([{'path': str(self.devices), 'ending': '',
                                'new': new, 'without': []}])
        return [path for path, _ in answer['files']]

    def test_clock_of_files(self) -> None:
        agent = leak_agent.Agent()
        note = self.devices / 'note'
        note.write_text(WORD)
        # It may be behind, but not by more than a tick.
        for age, found in ((0.5, [str(note)]), (1.5, [])):
            stamp = agent.began + leak_agent.TICK * (1 - age)
            os.utime(note, (stamp, stamp))
            self.assertEqual(found, self.files(agent, new=True))
            self.assertEqual([str(note)], self.files(agent, new=False))

    def test_path_with_a_password(self) -> None:
        (self.devices / WORD).write_text(WORD)
        self.assertEqual([f'{self.devices}/***'],
                         self.files(leak_agent.Agent(), new=False))


class ProgramTest(testtools.TestCase):

    def run_with(self, *messages: object
                 ) -> 'subprocess.CompletedProcess[str]':
        text = ''.join(message if isinstance(message, str) else
                       json.dumps(message) + '\n' for message in messages)
        done = subprocess.run(
            [sys.executable, '-IS', leak_agent.__file__], input=text,
            capture_output=True, text=True, timeout=60,
            env={'PATH': os.environ['PATH']})
        self.assertNotIn(WORD, done.stdout + done.stderr)
        return done

    def test_passwords_add_up(self) -> None:
        child = subprocess.Popen(
            ['sh', '-c', 'read end', WORD, f'<{WORD[1:]}'],
            stdin=subprocess.PIPE)
        self.addCleanup(child.communicate)
        done = self.run_with({'passwords': [WORD[1:]]}, {'passwords': [WORD]},
                             {'passwords': []}, {'finish': {'folders': []}})
        looking, answer = map(json.loads, done.stdout.splitlines())
        self.assertEqual({'looking': True}, looking)
        self.assertEqual(['sh -c read end *** <*** '], answer['exposed'])
        self.assertEqual(0, done.returncode)

    def test_nobody_listens(self) -> None:
        done = self.run_with({'passwords': [WORD]})
        self.assertEqual((1, '{"looking": true}\n', ''),
                         (done.returncode, done.stdout, done.stderr))

    def test_exceptions_hold_no_passwords(self) -> None:
        for message in ({'passwords': [WORD, 5]}, f'"{WORD}\n',
                        {'passwords': [WORD], 'finish': {WORD: 1}}):
            done = self.run_with(message)
            self.assertEqual(1, done.returncode)
            self.assertIn('Error', done.stderr.splitlines()[-1])
            self.assertIn('leak_agent.py', done.stderr)
