#
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

"""Sessions of all transports, on an open-iscsi that is made up."""

import glob
from unittest import mock

import ddt
from oslo_concurrency import processutils

from os_brick.initiator.connectors import iscsi
from os_brick.initiator import iscsi_transports
from os_brick.tests import base

PORTAL = '192.0.2.1:3260'
IQN = 'iqn.2026-01.test:volume'


class OpenISCSI:
    """What iscsiadm does with one node, and with its sessions.

    :ivar shown: whether a session is in the list of sessions
    """

    def __init__(self, transport):
        self.transport = transport
        self.shown = True
        self.logins = 0

    def execute(self, *command, check_exit_code=True, **kwargs):
        command = command[1:]
        if '--login' in command:
            self.logins += 1
            if self.logins > 100:
                raise AssertionError('it logs in for ever')
            return self._exit(15 if self.logins > 1 else 0, check_exit_code)
        if '--logout' in command:
            self.logins = 0
        if command == ('-m', 'session') and self.logins and self.shown:
            return (f'{self.transport}: [7] {PORTAL},1 {IQN} (non-flash)\n',
                    '')
        if command == ('-m', 'node'):
            return f'{PORTAL},1 {IQN}\n', ''
        return '', ''

    def _exit(self, code, accepted):
        if code not in accepted:
            raise processutils.ProcessExecutionError(exit_code=code)
        return '', ''


@ddt.ddt
class TransportsTestCase(base.TestCase):

    def setUp(self):
        super().setUp()
        self.sleep = self.mock_object(iscsi_transports.time, 'sleep')
        self.properties = {'target_portal': PORTAL, 'target_iqn': IQN,
                           'target_lun': 3}

    def connector(self, transport):
        self.host = OpenISCSI(transport)
        connector = iscsi.ISCSIConnector(None, execute=self.host.execute)
        self.mock_object(connector, '_execute', self.host.execute)
        return connector

    @ddt.data(*iscsi_transports.NAMES)
    def test_its_session_is_found(self, transport):
        connector = self.connector(transport)
        self.assertEqual(('7', True), connector._connect_to_iscsi_portal(
            self.properties))
        self.assertEqual(1, self.host.logins)
        self.sleep.assert_not_called()
        # And is not logged in to again.
        connector._connect_to_iscsi_portal(self.properties)
        self.assertEqual(1, self.host.logins)

    @ddt.data(*iscsi_transports.NAMES)
    def test_its_devices_are_found_on_detach(self, transport):
        connector = self.connector(transport)
        connector._connect_to_iscsi_portal(self.properties)
        self.mock_object(glob, 'glob', lambda pattern: [
            f'/sys/class/scsi_host/host5/device/session7/target5:0:0/'
            f'5:0:0:{lun}/block/sd{name}' for lun, name in ((3, 'c'),
                                                            (4, 'd'))
        ] if 'session7' in pattern else [])
        self.assertEqual(
            {(PORTAL, IQN): ({'sdc'}, {'sdd'})},
            connector._get_connection_devices(self.properties,
                                              [(PORTAL, IQN, 3)]))

    def test_a_session_that_never_shows(self):
        connector = self.connector('tcp')
        self.host.shown = False
        with mock.patch.object(iscsi_transports.LOG, 'warning') as warning:
            self.assertEqual(
                (None, None),
                connector._connect_to_iscsi_portal(self.properties))
        self.assertEqual(iscsi_transports.LOGINS, self.host.logins)
        self.assertEqual([mock.call(iscsi_transports.PAUSE)] * 3,
                         self.sleep.mock_calls)
        warning.assert_called_once()

    def test_what_is_no_transport_of_open_iscsi(self):
        connector = self.connector('fw')
        self.assertEqual((None, None), connector._connect_to_iscsi_portal(
            self.properties))
