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
"""What is sent to tgtd, and what is not."""

import ddt

from cinder import privsep
from cinder.privsep.targets import tgt_control
from cinder.tests.unit import test


@ddt.ddt
class RequestTestCase(test.TestCase):

    def setUp(self):
        super().setUp()
        self.sent = []
        self.mock_object(tgt_control, '_request', self.request)
        self.mock_object(privsep.sys_admin_pctxt, 'client_mode', False)

    def request(self, operation, mode, text='', **kwargs):
        self.sent.append(text)
        return ''

    @ddt.data(
        (tgt_control.add_target, 1, 'iqn.x,y=z'),
        (tgt_control.admit, 1, 'iqn.x,address=ALL'),
        (tgt_control.bind_account, 1, 'user,x'),
        (tgt_control.add_account, 'user', 'pass word'),
        (tgt_control.add_account, 'us\ner', 'password'),
        (tgt_control.add_unit, 1, 1, '/dev/x,bstype=sg', 'i'),
        (tgt_control.add_unit, 1, 1, '', 'i'),
        (tgt_control.resize_unit, 1, 1, '/dev/x\0y'))
    def test_refused(self, what):
        function, *values = what
        error = self.assertRaises(ValueError, function, *values)
        self.assertNotIn('pass word', str(error))
        for value in values:
            if isinstance(value, str) and not tgt_control._VALUE.fullmatch(
                    value):
                self.assertFalse(any(value in text for text in self.sent
                                     if value))
