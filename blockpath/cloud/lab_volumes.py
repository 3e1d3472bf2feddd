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
"""The volumes of a running lab."""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import functools
from typing import Any

import openstack.connection
import openstack.exceptions

from blockpath.cloud import fault_injection
from blockpath.cloud import seed
from blockpath.machine import errors
from blockpath.machine import topology
from blockpath.machine import wait
from blockpath.observe import volume_content

#: A volume's migration_status while it is on its way.
_MOVING: frozenset[str | None] = frozenset(
    ('starting', 'migrating', 'completing'))


class VolumeMigrationFailed(errors.LabError):
    """A volume did not arrive on the requested backend."""


class Volumes:
    """Creates, moves and deletes volumes.

    Volumes are openstacksdk's objects; hosts and backends go by their names.
    """

    def __init__(self, cloud: openstack.connection.Connection,
                 site: topology.Site, storage: fault_injection.Storage,
                 holdings: volume_content.Holdings) -> None:
        self._cloud = cloud
        self._log = site.log
        self._storage = storage
        self._holdings = holdings

    @property
    def _api(self) -> Any:
        # Not in __init__: the first access looks the endpoint up.
        return self._cloud.block_storage

    @functools.cached_property
    def _image_id(self) -> str:
        """The id of the tiny guest's image."""
        return self._cloud.image.find_image(
            seed.IMAGE, ignore_missing=False).id

    def create(self, name: str, size: int = 1, bootable: bool = False,
               bus: str | None = None, **attributes: Any) -> Any:
        """Create a volume and wait until it is there.

        :param size: GiB.
        :param bootable: with the tiny guest on it, else blank.
        :param bus: of the disks of a server that boots from it, ``virtio``
            or ``scsi`` (which is virtio-scsi).
        :param attributes: as ``volume_type``: a backend of the lab, or
            ``anywhere``. Volumes on Ceph cannot be attached to servers:
            the compute hosts know nothing of it.
        """
        image = {'image_id': self._image_id} if bootable else {}
        volume = self._api.create_volume(name=name, size=size, **image,
                                         **attributes)
        volume = self.wait_for(volume, 'available')
        if bus:
            self._api.set_volume_image_metadata(
                volume, hw_disk_bus=bus, hw_scsi_model='virtio-scsi')
        return volume

    def wait_for(self, volume: Any, status: str) -> Any:
        """Wait for a volume's status.

        :raises LabError: the volume came into an error state instead
        """
        def look() -> Any:
            found = self._api.get_volume(volume.id)
            if found.status == status:
                return found
            if found.status.startswith('error'):
                raise errors.LabError(f'volume {found.name} is '
                                      f'{found.status}, not {status}')
            return None

        return wait.until(look, f'volume {volume.name} to be {status}',
                          wait.PATIENCE, wait.POLL)

    def delete(self, volume: Any) -> None:
        """Delete a volume and wait until it is gone.

        A server that is deleted may not have released its volumes yet, and
        an aborted copy may not have ended.
        """
        self.wait_for_rest(volume)
        self.wait_for(volume, 'available')
        self._api.delete_volume(volume.id)

        def gone() -> bool:
            try:
                found = self._api.get_volume(volume.id)
            except openstack.exceptions.NotFoundException:
                return True
            if found.status.startswith('error'):
                raise errors.LabError(f'volume {found.name} is '
                                      f'{found.status} after its deletion')
            return False

        wait.until(gone, f'volume {volume.name} to be deleted', wait.PATIENCE,
                   wait.POLL)

    def start_migration(self, volume: Any, backend: str,
                        force_host_copy: bool = False) -> None:
        """Request the migration of a volume to another backend.

        See :meth:`migrate`.
        """
        host = f'{topology.STORAGE.name}@{backend}#{backend}'
        self._api.migrate_volume(
            volume.id, host=host, force_host_copy=force_host_copy)

    def migrate(self, volume: Any, backend: str,
                force_host_copy: bool = False,
                patience: float = wait.PATIENCE) -> Any:
        """Migrate a volume to another backend and wait.

        :param volume: of the type ``anywhere``, or one that suits
        :param force_host_copy: copy even if the driver could migrate it
        :returns: the volume
        :raises VolumeMigrationFailed: the volume is not on that backend
        """
        self.start_migration(volume, backend, force_host_copy)
        return self.wait_for_move(volume, backend, patience)

    def retype(self, volume: Any, backend: str, policy: str = 'on-demand',
               patience: float = wait.PATIENCE) -> Any:
        """Retype a volume to a backend's type and wait.

        :param policy: the migration policy, ``on-demand`` or ``never``
        :returns: the volume
        :raises VolumeMigrationFailed: the volume is not on that backend
        """
        kind = self._api.find_type(backend, ignore_missing=False)
        self._api.retype_volume(volume.id, kind.id, policy)
        moved = self.wait_for_move(volume, backend, patience)
        if moved.volume_type != backend:
            raise VolumeMigrationFailed(
                f'volume {volume.name} is of type {moved.volume_type}, not '
                f'{backend}')
        return moved

    def wait_for_move(self, volume: Any, backend: str,
                      patience: float = wait.PATIENCE) -> Any:
        """Wait until nothing moves a volume.

        :returns: the volume
        :raises VolumeMigrationFailed: the volume is not on that backend then
        """
        found = self.wait_for_rest(volume, patience)
        if (volume_content.backend(found) != backend or
                found.migration_status == 'error'):
            raise VolumeMigrationFailed(
                f'volume {found.name} is on {found.host}, not on {backend}; '
                f'its migration: {found.migration_status}; the log is '
                f'{self._log}/cinder-volume.log')
        return found

    def wait_for_rest(self, volume: Any, patience: float = wait.PATIENCE,
                      reported: bool = False) -> Any:
        """Wait until nothing moves a volume, wherever it is then.

        :param reported: wait until Cinder reports how the migration ended,
            too. When it has swapped the two volumes, the volume has no
            migration status for a moment.
        :returns: the volume
        """
        moves = _MOVING | {None} if reported else _MOVING

        def look() -> Any:
            found = self._api.get_volume(volume.id)
            moving = (found.migration_status in moves or
                      found.status in ('retyping', 'maintenance'))
            return None if moving else found

        return wait.until(look, f'volume {volume.name} to be moved', patience,
                          wait.POLL)

    def destination(self, volume: Any) -> Any:
        """Wait for the temporary volume that a volume is copied to.

        :returns: the temporary volume
        """
        def look() -> Any:
            for found in self._api.volumes():
                if (found.migration_status == f'target:{volume.id}' and
                        found.status == 'available'):
                    return found
            return None

        return wait.until(look, f'the copy of volume {volume.name} to begin',
                          wait.PATIENCE, wait.POLL)

    def messages(self, volume: Any) -> list[str]:
        """Return Cinder's messages to the user about a volume."""
        answer = self._api.get(
            f'/messages?resource_uuid={volume.id}', microversion='3.5')
        openstack.exceptions.raise_from_response(answer)
        return [row['user_message'] for row in answer.json()['messages']]

    @contextlib.contextmanager
    def taken(self, volume: Any, host: str) -> Iterator[None]:
        """Map a volume to a compute host, as for somebody else's server.

        The host's target stays for the whole block, and a volume mapped
        later has another LUN there than on a host with no volume.
        """
        answer = self._api.post('/attachments', microversion='3.44', json={
            'attachment': {'volume_uuid': volume.id, 'connector': {
                'initiator': topology.compute(host).initiator, 'host': host}}})
        openstack.exceptions.raise_from_response(answer)
        path = f'/attachments/{answer.json()["attachment"]["id"]}'
        try:
            answer = self._api.post(f'{path}/action', microversion='3.44',
                                    json={'os-complete': None})
            openstack.exceptions.raise_from_response(answer)
            self.wait_for(volume, 'in-use')
            yield
        finally:
            answer = self._api.delete(path, microversion='3.44')
            openstack.exceptions.raise_from_response(answer)

    @contextlib.contextmanager
    def mistaken(self, volume: Any, other: Any) -> Iterator[None]:
        """Have Cinder report the portal and LUN of another volume instead."""
        self._api.set_volume_metadata(volume, mistaken_for=other.id)
        try:
            yield
        finally:
            self._api.delete_volume_metadata(volume, ['mistaken_for'])

    @contextlib.contextmanager
    def reached_by(self, volume: Any, portals: Sequence[str]
                   ) -> Iterator[None]:
        """Have Cinder report other portals, two of them.

        Hosts that are connected to the volume do not notice.
        """
        self._api.set_volume_metadata(volume, reached_by=','.join(portals))
        try:
            yield
        finally:
            self._api.delete_volume_metadata(volume, ['reached_by'])

    def mapping(self, volume: Any, host: str) -> tuple[str, int] | None:
        """Return by which IQN and LUN a volume is mapped to a host.

        :returns: None if it is not mapped there
        """
        return self._storage.luns(host).get(self._holdings.device(volume))
