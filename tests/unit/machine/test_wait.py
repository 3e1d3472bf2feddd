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
"""Waits end, whatever happens."""

import time

import testtools

from blockpath.machine import errors
from blockpath.machine import wait


class TestUntil(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        wait.cancelled.clear()
        self.addCleanup(wait.cancelled.clear)

    def test_returns_the_answer(self) -> None:
        answers = iter(('', 'yes'))
        self.assertEqual('yes', wait.until(lambda: next(answers), 'it', 1,
                                           0.01))

    def test_says_what_did_not_come(self) -> None:
        error = self.assertRaises(errors.TimedOut, wait.until, lambda: None,
                                  'godot', 0.05, 0.01)
        self.assertEqual('timed out after 0.05 s waiting for godot',
                         str(error))

    def test_ends_at_once_when_cancelled(self) -> None:
        wait.cancelled.set()
        started = time.monotonic()
        self.assertRaises(wait.Cancelled, wait.until, lambda: None, 'it', 60,
                          30)
        self.assertLess(time.monotonic() - started, 5)
