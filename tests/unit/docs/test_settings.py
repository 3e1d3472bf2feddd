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
"""Samples of configuration, against options that are known."""

import fixtures
from oslo_config import cfg
import testtools

from blockpath.docs import settings

KNOWN = {
    'DEFAULT': {'enabled_backends': cfg.ListOpt('enabled_backends')},
    'libvirt': {'virt_type': cfg.StrOpt('virt_type', choices=['kvm', 'qemu']),
                'tries': cfg.IntOpt('tries', min=1)},
    'backend_defaults': {'scope': cfg.StrOpt('scope')},
}


class SettingsTest(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.MockPatch(
            'blockpath.docs.settings.known', lambda: KNOWN))

    def test_good(self):
        self.assertEqual([], settings.problems(
            '[DEFAULT]\nenabled_backends = a, b\n\n'
            '[libvirt]\nvirt_type = kvm\ntries = 3\n\n'
            '[lvm]\nscope = $my_ip%%\n'))

    def test_no_such_option(self):
        self.assertEqual(['there is no option [libvirt] scope'],
                         settings.problems('[libvirt]\nscope = host\n'))

    def test_no_such_option_of_a_backend(self):
        self.assertEqual(['there is no option [lvm] tries'],
                         settings.problems('[lvm]\ntries = 1\n'))

    def test_a_value_that_is_refused(self):
        for line in ('virt_type = xen', 'tries = many', 'tries = 0'):
            [problem] = settings.problems(f'[libvirt]\n{line}\n')
            self.assertIn(f'[libvirt] {line}: ', problem)

    def test_no_ini(self):
        self.assertEqual(1, len(settings.problems('virt_type = kvm\n')))
