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

"""A cloud of two volume services that may be killed at each of their steps."""

import collections.abc
import contextlib
import os
import shutil
import typing as ty

from cinder import context
from cinder.db import api as db_api
from cinder import objects
from cinder import service
from cinder.tests.unit import fake_constants as fake
from cinder.tests.unit.volume.copier import fakes
from cinder.volume import driver
from cinder.volume import volume_utils

GIB = 1 << 30
#: Where the data of a volume is that is not zeros.
BLOCKS = (0, 512 << 20)
DATA = b"the user's data"
#: What a guest writes to the volume that Nova moved it to.
GUEST = b'THE'


class Cloud:
    """What outlives the services: storage, devices, and messages on their way.

    A step is what can be seen from outside: a statement that writes to the
    database, a request, a call of a driver or of os-brick, a write to a
    volume. Once killed, a service makes none any more, so that nothing that
    Python does on the way out counts.

    :ivar managers: by host
    :ivar trace: the steps since :meth:`run` was called
    :ivar renames: whether drivers give migrated data the name of the old
    :ivar assists: whether the source's driver migrates volumes itself
    :ivar late: whether what is cast waits until somebody calls or sleeps
    :ivar slow: whether Nova takes as long
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.managers: dict[str, ty.Any] = {}
        self.services: dict[str, int] = {}
        self.exports: set[tuple[str, str]] = set()
        self.connections: set[tuple[str, str]] = set()
        self.devices: set[str] = set()
        self.deleted: list[str] = []
        self.trace: list[str] = []
        self.casts: list[collections.abc.Callable[[], None]] = []
        self.renames = self.assists = self.late = self.slow = False
        self.now = 0.0
        self._armed = self._dead = False
        self._kill_at: int | None = None

    def step(self, what: str) -> None:
        if self._dead:
            raise fakes.Killed()
        if self._armed:
            self.trace.append(what)
            if len(self.trace) == self._kill_at:
                self._dead = True
                raise fakes.Killed()

    def write(self, connection: ty.Any, cursor: ty.Any, statement: str,
              *rest: ty.Any) -> None:
        """For SQLAlchemy's event before_cursor_execute."""
        words = statement.split()
        if words[0] in ('INSERT', 'UPDATE', 'DELETE'):
            self.step(' '.join(words[:3]))

    def run(self, what: collections.abc.Callable[[], None],
            kill_at: int | None = None) -> bool:
        """Do something.

        :param kill_at: the number of the step, from 1, before which the
            services are killed
        :returns: whether they were killed
        """
        self.trace = []
        self._armed, self._kill_at = True, kill_at
        try:
            what()
        except BaseException:
            if not self._dead:
                raise
        finally:
            killed, self._dead, self._armed = self._dead, False, False
        return killed

    @contextlib.contextmanager
    def elsewhere(self) -> collections.abc.Iterator[None]:
        """What is done by others than the services."""
        armed, self._armed = self._armed, False
        try:
            yield
        finally:
            self._armed = armed

    # Time

    def sleep(self, seconds: float) -> None:
        self.step('sleep')
        self.now += seconds
        self.deliver()

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def deliver(self) -> None:
        casts, self.casts = self.casts, []
        for cast in casts:
            cast()

    # Storage

    def path(self, host: str, name: str) -> str:
        return os.path.join(self.folder, volume_utils.extract_host(host), name)

    def location(self, volume: objects.Volume) -> str:
        return self.path(volume.host, volume.name_id)

    def files(self) -> set[str]:
        return {os.path.join(folder, name)
                for folder, __, names in os.walk(self.folder)
                for name in names}

    def create(self, path: str, data: bytes = b'') -> None:
        with open(path, 'xb') as file:
            file.truncate(GIB)
        if data:
            self.overwrite(path, data)

    def overwrite(self, path: str, *data: bytes) -> None:
        """Write to both BLOCKS, the last of `data` on top."""
        with open(path, 'r+b') as file:
            for offset in BLOCKS:
                for each in data:
                    file.seek(offset)
                    file.write(each)

    def read(self, path: str) -> list[bytes]:
        """What is in BLOCKS."""
        with open(path, 'rb') as file:
            return [os.pread(file.fileno(), len(DATA), offset)
                    for offset in BLOCKS]


class Client:
    """Stands for oslo.messaging's, and knows where a request goes."""

    def __init__(self, cloud: Cloud, host: str) -> None:
        self._cloud = cloud
        self._host = volume_utils.extract_host(host)

    def can_send_version(self, version: str) -> bool:
        return True

    def call(self, ctxt: ty.Any, method: str, **kwargs: ty.Any) -> ty.Any:
        self._cloud.step(f'call {method}')
        self._cloud.deliver()
        return self.serve(method, kwargs)

    def cast(self, ctxt: ty.Any, method: str, **kwargs: ty.Any) -> None:
        self._cloud.step(f'cast {method}')

        def serve():
            # Who casts does not see what becomes of it.
            with contextlib.suppress(Exception):
                self.serve(method, kwargs)

        if self._cloud.late:
            self._cloud.casts.append(serve)
        else:
            serve()

    def serve(self, method: str, kwargs: dict[str, ty.Any]) -> ty.Any:
        ctxt = context.get_admin_context()
        kwargs = {name: type(value).obj_from_primitive(
            value.obj_to_primitive(), ctxt)
            if isinstance(value, objects.Volume) else value
            for name, value in kwargs.items()}
        caller = service.Service.service_id
        service.Service.service_id = self._cloud.services[self._host]
        try:
            return getattr(self._cloud.managers[self._host], method)(
                ctxt, **kwargs)
        finally:
            service.Service.service_id = caller


class Connector:
    """As os-brick's: what is connected already is found."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def connect_volume(self, data: dict[str, str]) -> dict[str, str]:
        self._cloud.step('connect')
        self._cloud.devices.add(data['path'])
        return {'type': 'block', 'path': data['path']}

    def check_valid_device(self, path: str, run_as_root: bool) -> bool:
        return os.path.exists(path)

    def disconnect_volume(self, data: dict[str, str],
                          device: dict[str, str], force: bool) -> None:
        self._cloud.step('disconnect')
        self._cloud.devices.discard(data['path'])


class Nova:
    """Moves a guest, and then says so."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def update_server_volume(self, ctxt: ty.Any, server_id: str,
                             old_id: str, new_id: str) -> None:
        self._cloud.step('Nova')
        admin = context.get_admin_context()
        with self._cloud.elsewhere():
            new = objects.Volume.get_by_id(admin, new_id)
            attach(admin, new, server_id, 'reserved')
        self._cloud.casts.append(lambda: self._move(old_id, new_id))
        if not self._cloud.slow:
            self._cloud.deliver()

    def _move(self, old_id: str, new_id: str) -> None:
        admin = context.get_admin_context()
        with self._cloud.elsewhere():
            old = objects.Volume.get_by_id(admin, old_id)
            new = objects.Volume.get_by_id(admin, new_id)
            self._cloud.overwrite(self._cloud.location(new), DATA, GUEST)
            db_api.volume_attached(
                admin, new.volume_attachment[0].id, fake.UUID1, None, 'vda')
            old.finish_detach(old.volume_attachment[0].id)
            for volume in (old, new):
                volume.refresh()
        Client(self._cloud, old.host).serve('migrate_volume_completion', {
            'volume': old, 'new_volume': new, 'error': False})


def attach(ctxt: ty.Any, volume: objects.Volume, server_id: str = fake.UUID1,
           status: str = 'in-use') -> None:
    """Attach a volume to a guest, as far as the database goes."""
    attachment = objects.VolumeAttachment(
        ctxt, volume_id=volume.id, instance_uuid=server_id,
        attach_status='reserved')
    attachment.create()
    volume.status = status
    volume.save()
    if status == 'in-use':
        db_api.volume_attached(ctxt, attachment.id, server_id, None, 'vda')
    volume.refresh()


class FileDriver(driver.VolumeDriver):
    """Volumes are files, which are exported and connected to."""

    VERSION = '1'
    SUPPORTS_ACTIVE_ACTIVE = True
    cloud: Cloud

    def __init__(self, *args: ty.Any, **kwargs: ty.Any) -> None:
        super().__init__(*args, **kwargs)
        self.host = kwargs['host']

    def do_setup(self, context):
        pass

    def check_for_setup_error(self):
        pass

    def _update_volume_stats(self):
        self._stats = {'pools': []}

    def create_volume(self, volume):
        self.cloud.step('create_volume')
        self.cloud.create(self.cloud.path(self.host, volume.name_id))

    def delete_volume(self, volume):
        self.cloud.step('delete_volume')
        self.cloud.deleted.append(volume.id)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.cloud.path(self.host, volume.name_id))

    def ensure_export(self, context, volume):
        pass

    def create_export(self, context, volume, connector):
        self.cloud.step('create_export')
        self.cloud.exports.add((self.host, volume.name_id))
        return {'provider_location': f'{self.host} {volume.name_id}'}

    def remove_export(self, context, volume):
        self.cloud.step('remove_export')
        self.cloud.exports.discard((self.host, volume.name_id))

    def initialize_connection(self, volume, connector):
        self.cloud.step('initialize_connection')
        self.cloud.connections.add((self.host, volume.name_id))
        return {'driver_volume_type': 'local', 'data': {
            'path': self.cloud.path(self.host, volume.name_id)}}

    def terminate_connection(self, volume, connector, force=False):
        self.cloud.step('terminate_connection')
        self.cloud.connections.discard((self.host, volume.name_id))

    def migrate_volume(self, context, volume, host):
        if not self.cloud.assists:
            return False, None
        self.cloud.step('migrate_volume')
        shutil.move(self.cloud.path(self.host, volume.name_id),
                    self.cloud.path(host['host'], volume.name_id))
        return True, None

    def update_migrated_volume(self, ctxt, volume, new_volume,
                               original_volume_status):
        if not self.cloud.renames:
            raise NotImplementedError()
        self.cloud.step('update_migrated_volume')
        old = self.cloud.path(self.host, new_volume.id)
        new = self.cloud.path(self.host, volume.id)
        if (original_volume_status == 'available' and os.path.exists(old) and
                not os.path.exists(new)):
            os.rename(old, new)
            return {'_name_id': None, 'provider_location': None}
        return {'_name_id': new_volume._name_id or new_volume.id,
                'provider_location': new_volume.provider_location}
