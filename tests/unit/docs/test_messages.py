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
"""The strings of a module, as the docs quote them."""

import testtools

from blockpath.docs import messages


class StringsTest(testtools.TestCase):

    def found(self, source):
        return list(messages.strings(source))

    def test_a_string_in_parts(self):
        self.assertIn('volume … is of …: …', self.found(
            "_('volume %(volume)s is '\n  'of %s: %.3g') % x"))

    def test_a_formatted_one(self):
        self.assertIn('… is no name', self.found("f'{name!r} is no name'"))

    def test_percent(self):
        self.assertIn('100 % full', self.found("'100 % full'"))
