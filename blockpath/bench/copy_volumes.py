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
"""The ends of a copy: images, LUNs and files, as each program names them."""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any
from typing import TypeAlias

#: The name that libiscsi's users log in by unless told.
INITIATOR = 'iqn.2008-11.org.linux-kvm'


@dataclasses.dataclass(frozen=True)
class Ceph:
    """How to reach a cluster.

    :ivar monitor: address:port
    :ivar keyring: path of the user's
    """

    conf: str
    user: str
    monitor: str
    keyring: str


@dataclasses.dataclass(frozen=True)
class Image:
    """An RBD image."""

    ceph: Ceph
    pool: str
    name: str

    @property
    def spec(self) -> str:
        return f'{self.pool}/{self.name}'

    @property
    def qemu(self) -> str:
        return f'rbd:{self.spec}:id={self.ceph.user}:conf={self.ceph.conf}'


@dataclasses.dataclass(frozen=True)
class Lun:
    """A unit of an iSCSI target.

    :ivar portal: address:port
    :ivar backing: the file that the target serves as this unit
    """

    portal: str
    iqn: str
    number: int
    backing: str

    @property
    def qemu(self) -> str:
        return f'iscsi://{self.portal}/{self.iqn}/{self.number}'


@dataclasses.dataclass(frozen=True)
class File:
    """A raw file."""

    path: str

    @property
    def qemu(self) -> str:
        return self.path

    @property
    def backing(self) -> str:
        """The file that holds it, as a LUN has one."""
        return self.path

    @property
    def allocated(self) -> int:
        """Bytes."""
        return pathlib.Path(self.path).stat().st_blocks * 512


Volume: TypeAlias = Image | Lun | File


def to_json(volume: Volume) -> dict[str, Any]:
    return {'kind': type(volume).__name__, **dataclasses.asdict(volume)}


def from_json(data: Mapping[str, Any]) -> Volume:
    fields = dict(data)
    kind = fields.pop('kind')
    if kind == 'Image':
        fields['ceph'] = Ceph(**fields['ceph'])
        return Image(**fields)
    return {'Lun': Lun, 'File': File}[kind](**fields)
