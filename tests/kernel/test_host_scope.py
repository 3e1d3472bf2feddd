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
"""Cinder's targets of hosts as kernels find them, and QEMU's initiator."""

import base64
import functools
import json
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any
from unittest import mock

from nova.virt.libvirt.volume import iscsi_elsewhere
from nova.virt.libvirt.volume import iscsi_identity
from nova.virt.libvirt.volume import iscsi_inquiry

from blockpath import paths
from tests.kernel import base
from tests.kernel import test_lvm

RIGHT = 'iqn.1994-05.com.example:right'
_MAKE = """
import sys
from cinder import objects; objects.register_all()
from cinder.db import migration
from oslo_config import cfg
cfg.CONF([], project='cinder', default_config_files=[])
cfg.CONF.set_override('connection', f'sqlite:///{sys.argv[1]}', 'database')
migration.db_sync()
"""


@functools.cache
def database() -> str:
    """An empty one of Cinder's, where the hosts find it."""
    path = paths.BUILD / 'kernel' / 'cinder.sqlite'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    subprocess.run([sys.executable, '-W', 'ignore', '-c', _MAKE, str(path)],
                   check=True)
    return str(path)


class TestHostScope(base.KernelTestCase):
    """Left is the initiator's kernel, right is QEMU there.

    Each portal is in a network of its own.
    """

    def setUp(self) -> None:
        super().setUp()
        base.volume_group()

    def cinder(self, function: str, *args: Any) -> Any:
        return self.storage.call(f'tests.kernel.host_scope:{function}', *args,
                                 timeout=test_lvm.SLOW_S)

    def test_lio(self) -> None:
        self.addCleanup(self.tidy)
        self.addCleanup(self.outside, 'lio_clear')
        self.check('lioadm', lambda: self.outside('lio_clear'))
        self.assertEqual([], self.cinder('devices'))

    def test_tgt(self) -> None:
        def restart() -> None:
            self.outside('tgt_stop')
            self.outside('tgt_start')

        self.addCleanup(self.tidy)
        self.addCleanup(self.outside, 'tgt_stop')
        self.outside('tgt_start')
        self.check('tgtadm', restart)

    def check(self, helper: str, forget: Any) -> None:
        """:param forget: has the storage forget its targets"""
        self.cinder('begin', database(), helper,
                    list(self.storage.addresses[:2]))
        left = self.inside('properties', self.initiator.addresses[0], True)
        right = {'initiator': RIGHT, 'host': 'right', 'multipath': False}
        self.volumes = [self.cinder('create') for _ in range(3)]
        one, both, other = (volume['id'] for volume in self.volumes)
        by_left = {volume: self.cinder('attach', volume, left)
                   for volume in (one, both)}
        by_right = {volume: self.cinder('attach', volume, right)
                    for volume in (both, other)}
        found = {volume: self.inside('connect', info, multipath=True)
                 for volume, info in by_left.items()}
        self.check_kernel(by_left, found)
        self.check_qemu(by_right, by_left)
        self.check_names(by_right[both], found[both], [found[one]])
        self.check_extended(one, by_left[one], found[one])
        before = self.inside('digest', found[both]['path'], 1)
        forget()
        self.cinder('restart')
        self.assertEqual(
            before, self.inside('digest', found[both]['path'], 1))
        for volume, info in by_left.items():
            self.inside('disconnect', info, found[volume], multipath=True)
        self.assert_clean()
        for volumes, name in ((by_left, left['initiator']),
                              (by_right, RIGHT)):
            for volume in volumes:
                self.cinder('detach', volume, name)

    def path(self, volume: str) -> str:
        return next(each['path'] for each in self.volumes
                    if each['id'] == volume)

    def check_kernel(self, info: dict[str, Any],
                     found: dict[str, Any]) -> None:
        """Its volumes, by both portals, and whatever it looks for no more."""
        for volume in info:
            self.check_data(found[volume]['path'], self.path(volume))
        self.initiator.shell('iscsiadm -m session -R; udevadm settle')
        left = self.leftovers()
        self.assertEqual(2, len(left['sessions']))
        self.assertEqual(2 * len(info), len(left['disks']))

    def check_qemu(self, info: dict[str, Any],
                   lefts: dict[str, Any]) -> None:
        """What it writes arrives; it finds its own only, and no others'."""
        for volume in set(info) - set(lefts):
            self.qemu_io(info[volume], 'write -P 65 0 64k', 'flush')
            self.storage.shell(
                f'dd if={self.path(volume)} iflag=direct bs=64k count=1 | '
                'cmp - <(head -c 65536 /dev/zero | tr "\\0" A)')
        either = next(iter(info.values()))
        self.assertEqual(
            sorted(each['target_lun'] for each in info.values()),
            self.found(either))
        for not_its in lefts.values():
            self.assertIn('error', self.asked(not_its))

    def qemu_io(self, info: dict[str, Any], *commands: str) -> None:
        disk = {'driver': 'raw', 'file': {
            'driver': 'iscsi', 'transport': 'tcp', 'initiator-name': RIGHT,
            'portal': info['target_portal'], 'target': info['target_iqn'],
            'lun': info['target_lun'], 'user': info['auth_username'],
            'password-secret': 's'}}
        self.initiator.run(
            'qemu-io', '--object', 'secret,id=s,file=/dev/stdin',
            *(word for command in commands for word in ('-c', command)),
            'json:' + json.dumps(disk), stdin=info['auth_password'])

    def found(self, info: dict[str, Any]) -> list[int]:
        """Return the LUNs that the right host sees, without tgtd's own."""
        for _ in range(4):
            # The first command to a LUN that was added is refused by LIO.
            end = self.initiator.result(
                'iscsi-ls', '-i', RIGHT, '-s',
                f'iscsi://{info["target_portal"]}', env={
                    'LIBISCSI_CHAP_USERNAME': info['auth_username'],
                    'LIBISCSI_CHAP_PASSWORD': info['auth_password']})
            if end.code == 0:
                break
        # By each portal.
        return sorted({int(lun) for lun in re.findall(
            r'^Lun:(\d+) .*Type:DIRECT', end.stdout, re.M)})

    def asked(self, info: dict[str, Any]) -> dict[str, Any]:
        """What Nova's program says of a volume."""
        [[answer]] = json.loads(self.initiator.run(
            '/usr/bin/python3', '-I', '-S', iscsi_inquiry.__file__,
            stdin=json.dumps({'deadline': 60, 'targets': [
                {'portal': info['target_portal'], 'iqn': info['target_iqn'],
                 'initiator': RIGHT, 'luns': [info['target_lun']],
                 'username': info['auth_username'],
                 'password': info['auth_password']}]})))
        return answer

    def check_names(self, info: dict[str, Any], same: dict[str, Any],
                    others: list[dict[str, Any]]) -> None:
        """Nova's: by the other host's target, and by its initiator."""
        names = iscsi_identity._answered(self.asked(info))
        self.assertIsInstance(names, set)
        self.assertIsNone(
            iscsi_identity._difference(names, self.names(same)))
        for other in others:
            self.assertIn('there', iscsi_identity._difference(
                names, self.names(other)) or '')

    def names(self, device: dict[str, Any]) -> set[str]:
        """What Nova has from the initiator's sysfs of a multipath device."""
        slaves = self.initiator.shell(
            'cd /sys/block/$(basename $(readlink -f "$0"))/slaves; ls'
            .replace('"$0"', device['path'])).split()
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / 'dm-0/slaves').mkdir(parents=True)
            for disk in slaves:
                (root / disk / 'device').mkdir(parents=True)
                (root / 'dm-0/slaves' / disk).symlink_to(root / disk)
                for page in ('vpd_pg80', 'vpd_pg83'):
                    (root / disk / 'device' / page).write_bytes(
                        base64.b64decode(self.initiator.run(
                            'base64', f'/sys/block/{disk}/device/{page}')))
            with mock.patch.multiple(iscsi_identity, _SYS_BLOCK=folder), \
                    mock.patch.multiple(iscsi_elsewhere, _SYS_BLOCK=folder):
                return iscsi_identity._of_device('/dev/dm-0')

    def check_extended(self, volume: str, info: dict[str, Any],
                       device: dict[str, Any]) -> None:
        self.cinder('extend', volume, 2)
        self.assertEqual(2 << 30, self.inside('extend', info,
                                              multipath=True))
        self.check_data(device['path'], self.path(volume))
