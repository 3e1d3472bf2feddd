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
"""What the tests of the lab share."""

import os
import pathlib
import shutil
import subprocess
import tempfile

import testtools

from blockpath.machine import namespaces
from blockpath.machine import topology


class LabTest(testtools.TestCase):
    """A test with a lab's folders, empty."""

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.site = topology.Site(self.folder / 'lab', self.folder / 'cache')
        for path in (self.site.run, self.site.log, self.site.etc):
            path.mkdir(parents=True)


def need_namespaces(test: testtools.TestCase) -> None:
    """Skip a test where namespaces can not be made."""
    if os.geteuid() or not shutil.which('unshare'):
        test.skipTest('needs root and unshare')
    if subprocess.run(['unshare', '--net', '--mount', 'true'],
                      capture_output=True).returncode:
        test.skipTest('namespaces can not be made here')


def start_in(test: testtools.TestCase, name: str) -> 'subprocess.Popen[bytes]':
    """Start a process in a network namespace; it ends with the test."""
    child = subprocess.Popen(
        ['nsenter', f'--net={namespaces.path(name)}', 'sleep', '60'])
    test.addCleanup(child.wait)
    test.addCleanup(child.kill)
    while child.pid not in namespaces.members([name]):
        test.assertIsNone(child.poll())
    return child
