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
"""A cloud whose compute hosts are of two releases, both with the series."""

import json
import os
import subprocess
from typing import Any

import testtools

from blockpath import paths
from blockpath.series import model
from blockpath.series import tree_checks

PEER = paths.ROOT / 'tests' / 'releases' / 'peer.py'


class MixedTest(testtools.TestCase):
    """Migration data goes between the Nova of the release and the default's.

    What the series adds to it has to arrive in both directions, though the
    version that carries it is not the same in both.
    """

    def setUp(self) -> None:
        super().setUp()
        series = model.Series(paths.ROOT)
        self.newer = tree_checks.Trees(series, series.default).python
        self.older = tree_checks.Trees(
            series, os.environ['BLOCKPATH_RELEASE']).python

    @staticmethod
    def run_python(*arguments: str, input: str | None = None
                   ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            arguments, input=input, capture_output=True, text=True,
            env=os.environ | {'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'True'})

    def ask(self, python: str, role: str, *data: Any) -> Any:
        """What a host or the conductor makes of it, and sends."""
        done = self.run_python(python, str(PEER), role, self.newer,
                               input=json.dumps(data))
        self.assertEqual(0, done.returncode, done.stderr)
        return json.loads(done.stdout)

    def migrate(self, source: str, destination: str) -> Any:
        data = self.ask(destination, 'check_destination')
        data = self.ask(source, 'check_source', data)
        data = self.ask(destination, 'pre_live_migration', data)
        return self.ask(source, 'rewrite', data)

    def test_to_the_newer_release(self) -> None:
        self.assertEqual(['volume', '<disk/>'],
                         self.migrate(self.older, self.newer))

    def test_to_the_older_release(self) -> None:
        self.assertEqual(['volume', '<disk/>'],
                         self.migrate(self.newer, self.older))

    def test_a_vtpm_is_not_sent_where_none_is_known(self) -> None:
        """The version of the series must not hide what upstream's tells."""
        data = self.ask(self.newer, 'with_vtpm',
                        self.ask(self.newer, 'check_destination'))
        asked = self.run_python(
            self.older, '-c', 'import nova.objects as o; o.register_all(); '
            'print("vtpm_secret_uuid" in o.LibvirtLiveMigrateData.fields)')
        self.assertEqual(0, asked.returncode, asked.stderr)
        done = self.run_python(self.older, str(PEER), 'check_source',
                               self.newer, input=json.dumps([data]))
        if asked.stdout.strip() == 'True':
            self.assertEqual(0, done.returncode, done.stderr)
        else:
            self.assertNotEqual(0, done.returncode)
            self.assertIn('Unable to backport newer vTPM support',
                          done.stderr)
