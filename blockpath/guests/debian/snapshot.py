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
"""A booted guest, kept in a file: later ones go on from there."""

import dataclasses
import hashlib
import pathlib
import shutil
import subprocess
import tempfile
import time

from blockpath.guests.debian import image
from blockpath.guests.debian import machine
from blockpath.guests.tiny import tools

#: Emulation takes half a minute on an idle machine.
BOOT_S = 240.0
#: Loaded before a guest is kept.
MODULES = (
    '9p', '9pnet_virtio', 'dm_multipath', 'dm_round_robin', 'ib_iser',
    'ib_isert', 'iscsi_target_mod', 'iscsi_tcp', 'rdma_rxe', 'rdma_ucm',
    'scsi_dh_alua', 'sd_mod', 'sg',
    'target_core_file', 'target_core_iblock', 'virtio_net')


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What ``Machine`` goes on from."""

    source: image.Image
    folder: pathlib.Path

    @property
    def disk(self) -> pathlib.Path:
        return self.folder / 'disk.qcow2'

    @property
    def state(self) -> pathlib.Path:
        return self.folder / 'state'


def take(source: image.Image,
         say: image.Say = image.say_to_terminal) -> Snapshot:
    """A booted guest of this image, from the cache when there is one."""
    with image.lock(say):
        folder = source.folder / f'booted-{_digest()}'
        if not folder.exists():
            say('rig: booting a guest, to keep it')
            began = time.monotonic()
            _take_in(folder, source)
            say(f'rig: booted and kept in {time.monotonic() - began:.0f} s')
    return Snapshot(source, folder)


def overlay(backing: pathlib.Path, kind: str, disk: pathlib.Path) -> None:
    """A disk that begins as ``backing`` and keeps what is written to it."""
    tools.run(('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', kind, '-b',
               backing, disk))


def _digest() -> str:
    """Of what must be the same at both ends: QEMU, and the devices."""
    version = subprocess.run([machine.QEMU, '--version'], check=True,
                             capture_output=True).stdout
    hasher = hashlib.sha256(version)
    for name in ('machine.py', 'snapshot.py'):
        hasher.update(pathlib.Path(__file__).with_name(name).read_bytes())
    return hasher.hexdigest()[:12]


def _take_in(folder: pathlib.Path, source: image.Image) -> None:
    with tempfile.TemporaryDirectory(prefix='.boot-',
                                     dir=source.folder) as name:
        work = pathlib.Path(name)
        kept = work / 'kept'
        kept.mkdir()
        overlay(source.root, 'raw', kept / 'disk.qcow2')
        guest = machine.Machine(source, work, kept / 'disk.qcow2')
        try:
            guest.wait_for_agent(BOOT_S)
            guest.agent.start('modprobe', '-a', *MODULES).wait()
            guest.agent.start('systemctl', 'start', 'dbus').wait()
            guest.agent.start('sync').wait()
            guest.save(kept / 'state')
        finally:
            guest.close()
        for other in source.folder.glob('booted-*'):
            shutil.rmtree(other)
        kept.rename(folder)
