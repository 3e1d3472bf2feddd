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
import json
import os
import subprocess
import sys
import textwrap

import fixtures
import testtools

from blockpath.bench import copy_measure

MIB = 1 << 20


def python(text: str) -> list[str]:
    return [sys.executable, '-c', textwrap.dedent(text)]


class RunTest(testtools.TestCase):
    """Real programs, whose figures are known well enough."""

    def test_time_and_processors(self):
        usage = copy_measure.run(python('''
            import time
            end = time.process_time() + 0.4
            while time.process_time() < end:
                pass
            time.sleep(0.4)'''))
        self.assertGreaterEqual(usage.seconds, 0.8)
        self.assertGreaterEqual(usage.cpu, 0.4)
        self.assertLess(usage.cpu, usage.seconds)

    def test_memory_of_children_counts(self):
        usage = copy_measure.run(python(f'''
            import subprocess, sys
            subprocess.run([sys.executable, '-c', """
            import time
            held = bytearray({60 * MIB})
            del held
            time.sleep(0.5)""".replace(' ' * 12, '')], check=True)'''))
        self.assertGreater(usage.memory, 60 * MIB)
        self.assertLess(usage.memory, 150 * MIB)

    def test_ended_process_has_no_descendants(self):
        child = subprocess.Popen(['true'])
        child.wait()
        self.assertEqual([], copy_measure.descendants(child.pid))

    def test_failure_says_what_the_program_said(self):
        error = self.assertRaises(copy_measure.Failed, copy_measure.run,
                                  ['sh', '-c', 'echo no such image >&2; '
                                               'exit 3'])
        self.assertIn('(3): no such image', str(error))

    def test_hanging_program_is_killed(self):
        self.useFixture(fixtures.MonkeyPatch(
            'blockpath.bench.copy_measure.LIMIT', 0.3))
        error = self.assertRaises(copy_measure.Failed, copy_measure.run,
                                  ['sh', '-c', 'sleep 60; true'])
        self.assertIn('(-9)', str(error))

    def test_own_marks(self):
        """What happened before the mark is left out, children are not."""
        usage = copy_measure.run(python(f'''
            import subprocess, time
            idle = bytearray({100 * MIB})
            del idle
            time.sleep(0.3)
            from blockpath.bench import copy_measure
            meter = copy_measure.Meter()
            taken = bytearray({30 * MIB})
            usage = meter.usage()
            time.sleep(0.3)
            meter.report(usage)'''))
        self.assertLess(usage.seconds, 0.3)
        self.assertGreaterEqual(usage.memory, 29 * MIB)
        self.assertLess(usage.memory, 60 * MIB)

    def test_environment_is_added_to_ours(self):
        self.useFixture(fixtures.EnvironmentVariable('KEPT', 'yes'))
        copy_measure.run(['sh', '-c', 'test "$KEPT$ADDED" = yesyes'],
                         {'ADDED': 'yes'})


class ServersTest(testtools.TestCase):

    def test_since_then(self):
        taken = copy_measure.servers({'me': os.getpid()})
        before = os.times()
        while os.times().user + os.times().system < (
                before.user + before.system + 0.2):
            json.dumps(list(range(1000)))
        self.assertTrue(0.1 < taken()['me'] < 2, taken())
