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
"""When a service is ready."""

from unittest import mock

from blockpath.cloud import services
from blockpath.machine import topology
from tests.unit import lab_base


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
        for backend in topology.BACKENDS:
            self.assertFalse(ready())
            self.counts[f'storage@{backend}'] = 0
        self.assertTrue(ready())

    def test_after_a_restart_every_backend_counts_on(self) -> None:
        self.counts = {f'storage@{backend}': 5
                       for backend in topology.BACKENDS}
        ready = self.check('cinder-volume')
        for backend in topology.BACKENDS:
            self.assertFalse(ready())
            self.counts[f'storage@{backend}'] += 1
        self.assertTrue(ready())

    def test_other_services_have_one_line(self) -> None:
        ready = self.check('nova-scheduler')
        self.assertFalse(ready())
        self.counts['control'] = 0
        self.assertTrue(ready())
