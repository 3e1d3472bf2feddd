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
"""Nova tells volumes apart that Cinder exports, whatever path leads there."""

import pathlib
import socket
import time
from typing import Any

import nova.conf
import nova.exception
from nova.objects import migrate_data
from nova.virt.libvirt.volume import iscsi_identity

from blockpath.daemons.standalone_cinder import client
from tests.targets import test_host_scope

CONF = nova.conf.CONF
LEFT, RIGHT = test_host_scope.HOSTS


class IdentityTestCase(test_host_scope.HostScopeTestCase):
    """The source is left, the destination right."""

    def setUp(self) -> None:
        super().setUp()
        if not CONF._args:
            CONF([], project='nova', default_config_files=[])
        CONF.set_override('virt_type', 'qemu', group='libvirt')
        CONF.set_override('iscsi_probe_timeout', 5, group='libvirt')
        self.addCleanup(CONF.clear_override, 'virt_type', group='libvirt')
        self.addCleanup(CONF.clear_override, 'iscsi_probe_timeout',
                        group='libvirt')
        service = self.serve()
        self.volumes = [service.call('create') for _ in range(3)]
        self.told = {(volume, host): service.attach(volume, host)[1]
                     for host in (LEFT, RIGHT) for volume in self.volumes}

    def bdm(self, volume: str, host: str, told: client.Told | None = None
            ) -> dict[str, Any]:
        told = told or self.told[volume, host]
        address, port = told['target_portal'].rsplit(':', 1)
        return {'connection_info': {
            'driver_volume_type': 'iscsi', 'serial': volume,
            'data': told | {'nova_initiator': {
                'name': 'qemu', 'host': host, 'iqn': host,
                'portal': [address, int(port)],
                'target': told['target_iqn'], 'lun': told['target_lun']}}}}

    def known(self, *bdms: dict[str, Any]) -> dict[str, list[str]]:
        """What a source that has these volumes connected tells."""
        bdms = bdms or tuple(self.bdm(volume, LEFT)
                             for volume in self.volumes)
        found = iscsi_identity._names(
            iscsi_identity._volumes(bdms),
            lambda _serial, info: iscsi_identity._connected(info))
        return {volume: sorted(names) for volume, names in found.items()
                if isinstance(names, set)}

    def check(self, *bdms: dict[str, Any]) -> None:
        iscsi_identity.check(migrate_data.LibvirtLiveMigrateData(
            src_volume_identities=self.known()), bdms)

    def test_same(self) -> None:
        names = self.known()
        self.assertEqual(set(self.volumes), set(names))
        self.assertEqual(3, len({name for each in names.values()
                                 for name in each
                                 if name.startswith('naa.')}))
        self.check(*(self.bdm(volume, RIGHT) for volume in self.volumes))

    def test_another(self) -> None:
        one, other = self.volumes[:2]
        error = self.assertRaises(
            nova.exception.MigrationPreCheckError, self.check,
            self.bdm(one, RIGHT, self.told[other, RIGHT]))
        self.assertIn(one, str(error))
        self.assertNotIn(self.told[one, RIGHT]['auth_password'], str(error))

    def test_nothing_there(self) -> None:
        """tgtd answers for LUNs that it does not have."""
        one = self.volumes[0]
        error = self.assertRaises(
            nova.exception.MigrationPreCheckError, self.check,
            self.bdm(one, RIGHT, self.told[one, RIGHT] | {'target_lun': 9}))
        self.assertIn('there is no LUN 9', str(error))

    def test_wrong_password(self) -> None:
        one = self.volumes[0]
        error = self.assertRaises(
            nova.exception.MigrationPreCheckError, self.check, self.bdm(
                one, RIGHT,
                self.told[one, RIGHT] | {'auth_password': 'x' * 12}))
        self.assertIn('Authentication failure(513)', str(error))

    def test_a_portal_that_hangs(self) -> None:
        """It holds up neither the other targets nor the service."""
        CONF.set_override('iscsi_probe_timeout', 1, group='libvirt')
        hung = self.enterContext(socket.create_server(('127.0.0.1', 0)))
        portal = f'127.0.0.1:{hung.getsockname()[1]}'
        one, other = self.volumes[:2]
        began = time.monotonic()
        names = self.known(
            self.bdm(one, LEFT, self.told[one, LEFT] |
                     {'target_portal': portal}), self.bdm(other, LEFT))
        self.assertLess(time.monotonic() - began, 30)
        self.assertEqual({other}, set(names))
        left = [path for path in pathlib.Path('/proc').glob('[0-9]*/cmdline')
                if b'iscsi_inquiry' in _read(path)]
        self.assertEqual([], left)


def _read(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b''
