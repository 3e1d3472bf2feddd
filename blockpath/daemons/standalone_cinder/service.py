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
"""A cinder-volume whose volumes are files, and the API beside it.

Everything else is Cinder's own: the manager, the LVM driver, the targets. It
does what it is told on its standard input, eight things at a time, and tells
what came of it: a JSON object on a line for each.
"""

import concurrent.futures
import json
import os
import pathlib
import sys
import threading
import time
from typing import Any
from unittest import mock
import uuid

from cinder import monkey_patch; monkey_patch.patch()  # noqa: E702

from cinder import context  # noqa: E402
from cinder import coordination  # noqa: E402
from cinder.db import migration  # noqa: E402
from cinder import objects  # noqa: E402
from cinder import privsep  # noqa: E402
from cinder import rpc  # noqa: E402
from oslo_config import cfg  # noqa: E402
from oslo_log import log as logging  # noqa: E402
from sqlalchemy import engine  # noqa: E402
from sqlalchemy import event  # noqa: E402

objects.register_all()

from cinder.volume.drivers import lvm  # noqa: E402
from cinder.volume import manager  # noqa: E402

USER = PROJECT = SERVER = str(uuid.UUID(int=1))
HOST = 'storage@files'
WORKERS = 8
MIB = 1 << 20


class FilesDriver(lvm.LVMVolumeDriver):
    """Cinder's, with /dev/shm for the volume group."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(mock.Mock(), *args, **kwargs)

    def check_for_setup_error(self) -> None:
        pass

    def _update_volume_stats(self) -> None:
        self._stats: dict[str, Any] = {'pools': []}


def configure(folder: pathlib.Path, group: str, portal: str,
              scope: str) -> None:
    host, port = portal.rsplit(':', 1)
    path = folder / 'cinder.conf'
    path.write_text(f"""
[DEFAULT]
enabled_backends = files
state_path = {folder}
transport_url = fake:/
log_file = {folder}/cinder.log
[database]
connection = sqlite:///{folder}/cinder.sqlite?timeout=60
sqlite_synchronous = false
[oslo_concurrency]
lock_path = {folder}/locks
[coordination]
backend_url = file://{folder}/coordination
[files]
volume_group = {group}
volumes_dir = {folder}/volumes
target_helper = tgtadm
target_scope = {scope}
target_ip_address = {host}
target_port = {port}
""")
    cfg.CONF(['--config-file', str(path)], project='cinder')


@event.listens_for(engine.Engine, 'before_cursor_execute', retval=True)
def _at_once(_connection: Any, _cursor: Any, statement: str, parameters: Any,
             *_: Any) -> tuple[str, Any]:
    # Two that read first and then write would not wait for one another.
    return ('BEGIN IMMEDIATE' if statement == 'BEGIN' else statement,
            parameters)


class Service:

    def __init__(self, group: str) -> None:
        self.context = context.get_admin_context()
        self.folder = pathlib.Path('/dev') / group
        self.kind = objects.VolumeType.get_by_name_or_id(
            self.context, '__DEFAULT__').id
        self.manager = manager.VolumeManager(
            volume_driver=f'{__name__}.FilesDriver', host=HOST,
            service_name='files')
        self.manager.init_host(service_id=1)

    def create(self) -> str:
        volume = objects.Volume(
            self.context, size=1, host=f'{HOST}#files', status='available',
            attach_status='detached', user_id=USER, multiattach=True,
            project_id=PROJECT, volume_type_id=self.kind)
        volume.create()
        with (self.folder / volume.name).open('wb') as file:
            file.truncate(MIB)
        return volume.id

    def reserve(self, volume: str) -> str:
        """An attachment of which the service does not know yet."""
        attachment = objects.VolumeAttachment(
            self.context, volume_id=volume, attach_status='reserved',
            instance_uuid=SERVER, attach_mode='null')
        attachment.create()
        return attachment.id

    def attach(self, volume: str, attachment: str,
               initiator: str) -> dict[str, Any]:
        """The connection_info, and the ``seconds`` that it took."""
        connector = {'initiator': initiator, 'host': initiator}
        began = time.monotonic()
        told = self.manager.attachment_update(
            self.context, objects.Volume.get_by_id(self.context, volume),
            connector, attachment)
        seconds = time.monotonic() - began
        record = objects.VolumeAttachment.get_by_id(self.context, attachment)
        record.update({'connection_info': told, 'attach_status': 'attached'})
        record.save()
        record.volume.update({'status': 'in-use',
                              'attach_status': 'attached'})
        record.volume.save()
        return told | {'seconds': seconds}

    def extend(self, volume: str, mib: str) -> None:
        """Let a volume be so large, and its hosts see it."""
        record = objects.Volume.get_by_id(self.context, volume)
        os.truncate(self.folder / record.name, int(mib) * MIB)
        self.manager.driver.target_driver.extend_target(record)

    def detach(self, volume: str, attachment: str) -> None:
        record = objects.Volume.get_by_id(self.context, volume)
        self.manager.attachment_delete(self.context, attachment, record)
        record.finish_detach(attachment)


def main() -> None:
    folder, group, portal, scope = sys.argv[1:]
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    configure(pathlib.Path(folder), group, portal, scope)
    logging.setup(cfg.CONF, 'cinder')
    privsep.sys_admin_pctxt.set_client_mode(False)
    rpc.init(cfg.CONF)
    coordination.COORDINATOR.start()
    if not os.path.exists(f'{folder}/cinder.sqlite'):
        migration.db_sync()
    service = Service(group)
    telling = threading.Lock()

    def tell(**answer: Any) -> None:
        with telling:
            print(json.dumps(answer), file=answers, flush=True)

    def do(number: int, what: str, *args: str) -> None:
        try:
            tell(number=number, value=getattr(service, what)(*args))
        except Exception as error:
            tell(number=number, error=f'{type(error).__name__}: {error}')

    tell(number=0, value=None)
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as workers:
        for line in sys.stdin:
            workers.submit(do, *json.loads(line))


if __name__ == '__main__':
    main()
