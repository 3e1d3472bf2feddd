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
"""A lab is opened without its APIs, which only the control host reaches."""

import os
import socket
from unittest import mock

from blockpath.cloud import cloud
from blockpath.cloud import config_files
from blockpath.cloud import lifecycle
from blockpath.machine import credentials
from blockpath.machine import errors
from blockpath.machine import processes
from tests.unit import lab_base


class TestLab(lab_base.LabTest):

    def test_down(self) -> None:
        error = self.assertRaises(errors.LabError, cloud.Lab, self.site)
        self.assertIn('blockpath lab up', str(error))

    def test_up(self) -> None:
        passwords = credentials.Passwords()
        config_files.Renderer(self.site, passwords).all()
        passwords.save(self.site.state / 'passwords.json')
        processes.Records(self.site.run, self.site.log).record(
            'anchor-control', os.getpid())
        lifecycle.mark_up(self.site)
        with mock.patch.object(socket.socket, 'connect',
                               side_effect=AssertionError) as connect:
            lab = cloud.Lab(self.site)
            connect.assert_not_called()
        self.assertEqual(('cmp1', 'cmp2'), lab.hosts.names)
