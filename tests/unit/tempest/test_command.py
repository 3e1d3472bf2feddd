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
"""``blockpath lab tempest``."""

from collections.abc import Iterator
import contextlib
import os
from unittest import mock

from click import testing

from blockpath.cloud import session
from blockpath import lab_cli
from blockpath.tempest import environment
from blockpath.tempest import prepare
from blockpath.tempest import runner
from tests.unit import lab_base


class TestCommand(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.lab = object()
        self.calls: list[tuple[object, ...]] = []

        @contextlib.contextmanager
        def configured(*arguments: object) -> Iterator[None]:
            self.calls.append(arguments)
            try:
                yield
            finally:
                self.calls.append(('as before',))

        for target, name, value in (
                (os, 'geteuid', lambda: 0),
                (environment, 'made', lambda: True),
                (session, 'interruptible', contextlib.nullcontext),
                (session, 'running',
                 lambda *_: contextlib.nullcontext(self.lab)),
                (prepare, 'prepare', lambda *_: self.folder),
                (prepare, 'configured', configured),
                (runner, 'perform',
                 lambda *arguments: self.calls.append(arguments))):
            patcher = mock.patch.object(target, name, value)
            patcher.start()
            self.addCleanup(patcher.stop)

    def invoke(self, *arguments: str) -> testing.Result:
        return testing.CliRunner().invoke(lab_cli.group,
                                          ['tempest', *arguments])

    def test_hosts_have_the_wanted_initiator_while_it_runs(self) -> None:
        for arguments, wanted in (((), 'host'),
                                  (('--initiator', 'qemu'), 'qemu')):
            self.calls.clear()
            result = self.invoke('-r', 'some', *arguments)
            self.assertEqual(0, result.exit_code, result.output)
            self.assertEqual([
                (self.lab, wanted), (self.lab, self.folder, 'some'),
                ('as before',)], self.calls)

    def test_there_are_two_initiators(self) -> None:
        result = self.invoke('--initiator', 'tgt')
        self.assertEqual((2, []), (result.exit_code, self.calls))
