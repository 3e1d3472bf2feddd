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
"""When a service counts as ready, and how it runs with other options."""

import types
from unittest import mock

from blockpath.lab import cloud
from blockpath.lab import errors
from blockpath.lab import layout
from blockpath.lab import services
from tests.unit.lab import lab_base


class TestReports(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        self.daemons = services.Daemons(self.site)
        self.counts: dict[str, int] = {}
        patch = mock.patch.object(self.daemons, '_report_counts',
                                  lambda service: dict(self.counts))
        patch.start()
        self.addCleanup(patch.stop)

    def check(self, name: str):
        return self.daemons._reports(self.daemons.table[name])

    def test_first_start_has_a_line_a_backend(self) -> None:
        ready = self.check('cinder-volume')
        for backend in layout.BACKENDS:
            self.assertFalse(ready())
            self.counts[f'storage@{backend}'] = 0
        self.assertTrue(ready())

    def test_after_a_restart_every_backend_counts_on(self) -> None:
        self.counts = {f'storage@{backend}': 5
                       for backend in layout.BACKENDS}
        ready = self.check('cinder-volume')
        for backend in layout.BACKENDS:
            self.assertFalse(ready())
            self.counts[f'storage@{backend}'] += 1
        self.assertTrue(ready())

    def test_other_services_have_one_line(self) -> None:
        ready = self.check('nova-scheduler')
        self.assertFalse(ready())
        self.counts['control'] = 0
        self.assertTrue(ready())


class TestConfigured(lab_base.LabTest):

    def test_options_are_there_for_the_block_only(self) -> None:
        path = self.site.etc / 'storage' / 'cinder.conf'
        path.parent.mkdir()
        path.write_text('[DEFAULT]\na = 1\n')
        seen: list[str] = []
        lab = types.SimpleNamespace(
            daemons=services.Daemons(self.site),
            restart=lambda name: seen.append(path.read_text()))

        def use() -> None:
            with cloud.Lab.configured(
                    lab, 'cinder-volume',  # type: ignore[arg-type]
                    DEFAULT={'a': 2}, rbd={'b': 3}):
                raise errors.LabError('in the block')

        self.assertRaises(errors.LabError, use)
        self.assertEqual('[DEFAULT]\na = 1\n\n[DEFAULT]\na = 2\n'
                         '[rbd]\nb = 3\n', seen[0])
        self.assertEqual(['[DEFAULT]\na = 1\n'] * 2,
                         [seen[1], path.read_text()])
