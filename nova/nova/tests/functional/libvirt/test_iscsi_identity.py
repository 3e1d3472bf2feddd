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

"""A live migration that would give a guest another's volume."""

from unittest import mock

import ddt
import fixtures

from nova.tests.functional.libvirt import test_iscsi_initiator


@ddt.ddt
class AnotherVolumeTestCase(test_iscsi_initiator.DifferentTargets):
    """Both hosts tell names; each host's target is another."""

    def setUp(self):
        super().setUp()
        self.names = ['naa.1', 'naa.1']
        self.useFixture(fixtures.MockPatch(
            'nova.virt.libvirt.volume.iscsi_identity._ask', self._ask))

    def _ask(self, targets):
        return {serial: {self.names[lun]} for luns in targets.values()
                for serial, lun in luns.items()}

    def _migrate(self, end):
        self._attach()
        self._live_migrate(self.server, migration_expected_state=end)
        self.assertEqual(
            'dest' if end == 'completed' else 'src', self.api.get_server(
                self.server['id'])['OS-EXT-SRV-ATTR:host'])

    def test_another(self):
        self.names[1] = 'naa.2'
        self._migrate('failed')
        self.assertIn('there naa.1, here naa.2',
                      self.stdlog.logger.output)
        self.assertIsNone(self._secret(self.dest))
        self.assertEqual('s3cr3t0', self._secret(self.src)._value)

    @ddt.data('src', 'dest')
    def test_switched_off(self, where):
        self.names[1] = 'naa.2'
        method = {'src': 'check_can_live_migrate_source',
                  'dest': 'pre_live_migration'}[where]
        driver = getattr(self, where).driver
        call = getattr(driver, method)

        def without(*args, **kwargs):
            self.flags(iscsi_check_identity=False, group='libvirt')
            try:
                return call(*args, **kwargs)
            finally:
                self.flags(iscsi_check_identity=True, group='libvirt')

        with mock.patch.object(driver, method, without):
            self._migrate('completed')
