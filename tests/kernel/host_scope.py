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
"""Called on the storage host: the LVM driver with a target for each host.

The driver reads the attachments from Cinder's database. Each call runs in a
new process, like a restarted service.
"""

import pathlib
import shutil
from typing import Any

from cinder import context
from cinder import objects

from tests.kernel import lvm

DATABASE = lvm.STATE / 'cinder.sqlite'
PROJECT = USER = '5f1d6a51-95c5-4a0b-b6ad-3c8e3ba25d1e'


def begin(database: str, helper: str, addresses: list[str]) -> None:
    """Configure it, with a copy of an empty database."""
    shutil.copy(database, DATABASE)
    shutil.rmtree(lvm.STATE / 'volumes' / 'hosts', ignore_errors=True)
    lvm.configure(helper, addresses, 'iscsi')
    with lvm.CONF.open('a') as file:
        file.write('target_scope = host\n'
                   f'[database]\nconnection = sqlite:///{DATABASE}\n')


def restart() -> None:
    """As the manager begins."""
    driver = lvm.driver()
    admin = context.get_admin_context()
    for volume in objects.VolumeList.get_all(admin):
        driver.ensure_export(admin, volume)


def create() -> dict[str, str]:
    """A volume of 1 GiB: ``id``, and ``path`` of the logical volume."""
    driver = lvm.driver()
    admin = context.get_admin_context()
    volume = objects.Volume(
        admin, size=1, host='storage@lvm#lvm', status='available',
        attach_status='detached', user_id=USER, project_id=PROJECT,
        volume_type_id=objects.VolumeType.get_by_name_or_id(
            admin, '__DEFAULT__').id)
    volume.create()
    driver.create_volume(volume)
    return {'id': volume.id, 'path': driver.local_path(volume)}


def attach(volume_id: str, connector: dict[str, Any]) -> dict[str, Any]:
    """As the manager and the API do; the connection_info's ``data``."""
    driver = lvm.driver()
    admin = context.get_admin_context()
    volume = objects.Volume.get_by_id(admin, volume_id)
    attachment = objects.VolumeAttachment(
        admin, volume_id=volume_id, attach_status='reserved')
    attachment.create()
    driver.validate_connector(connector)
    volume.update(driver.create_export(admin, volume, connector))
    volume.save()
    info = driver.initialize_connection(volume, connector)['data']
    attachment.update({'connector': connector, 'connection_info': info,
                       'attach_status': 'attached'})
    attachment.save()
    return info


def detach(volume_id: str, initiator: str) -> None:
    """As the manager does; and delete the volume after the last one."""
    driver = lvm.driver()
    admin = context.get_admin_context()
    volume = objects.Volume.get_by_id(admin, volume_id)
    [attachment] = [each for each in volume.volume_attachment
                    if each.connector['initiator'] == initiator]
    shared = driver.terminate_connection(volume, attachment.connector)
    attachment.destroy()
    if not shared:
        driver.remove_export(admin, volume)
        driver.delete_volume(volume)
        volume.destroy()


def extend(volume_id: str, gib: int) -> None:
    volume = objects.Volume.get_by_id(context.get_admin_context(), volume_id)
    lvm.driver().extend_volume(volume, gib)


def devices() -> list[str]:
    """What LIO has opened."""
    root = pathlib.Path('/sys/kernel/config/target/core')
    return sorted(path.name for path in root.glob('iblock_*/*')
                  if path.is_dir() and path.name != 'alua')
