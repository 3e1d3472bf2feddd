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
"""Called on the storage host: Cinder's LVM driver, without its services.

The configuration is a file as an operator writes it, and the driver is made
as the volume manager makes it. There is no database: a volume is an object
that was never saved, and goes to and fro as a dict.
"""

import pathlib
import subprocess
import sys
from typing import Any

from cinder import context
from cinder import exception
from cinder import objects
from cinder.volume import configuration
from oslo_config import cfg
from oslo_privsep import priv_context

objects.register_all()

from cinder import privsep  # noqa: E402
from cinder.volume.drivers import lvm  # noqa: E402
from cinder.volume import manager  # noqa: E402
from cinder.volume.targets import driver as target_driver  # noqa: E402

CONF = pathlib.Path('/etc/cinder/cinder.conf')
STATE = pathlib.Path('/var/lib/cinder')
#: Root already, so the filters are not in the way: just run it.
ROOTWRAP = '#!/bin/sh\nshift\nexec "$@"\n'
FIELDS = ('id', 'size', 'host', 'provider_location', 'provider_auth')


def prepare(device: str) -> None:
    """Make a volume group on a disk, and have the programs in sudo's PATH."""
    programs = pathlib.Path('/usr/local/bin')
    (programs / 'cinder-rootwrap').write_text(ROOTWRAP)
    (programs / 'cinder-rootwrap').chmod(0o755)
    (programs / 'cinder-rtstool').unlink(missing_ok=True)
    (programs / 'cinder-rtstool').symlink_to(
        pathlib.Path(sys.executable).with_name('cinder-rtstool'))
    for folder in (STATE / 'volumes', CONF.parent):
        folder.mkdir(parents=True, exist_ok=True)
    tgt = pathlib.Path('/etc/tgt/conf.d/cinder.conf')
    tgt.write_text(f'include {STATE}/volumes/*\n')
    subprocess.run(['vgcreate', '-q', 'cinder-volumes', device], check=True,
                   capture_output=True)


def configure(helper: str, addresses: list[str], protocol: str) -> None:
    CONF.write_text(f"""
[DEFAULT]
enabled_backends = lvm
state_path = {STATE}
[oslo_concurrency]
lock_path = /run/testbed/cinder-locks
[lvm]
volume_driver = cinder.volume.drivers.lvm.LVMVolumeDriver
volume_group = cinder-volumes
lvm_type = default
volume_clear = none
volumes_dir = {STATE}/volumes
target_helper = {helper}
target_protocol = {protocol}
target_ip_address = {addresses[0]}
target_secondary_ip_addresses = {','.join(addresses[1:])}
""")


def driver() -> lvm.LVMVolumeDriver:
    cfg.CONF(['--config-file', str(CONF)], project='cinder')
    objects.register_all()
    privsep.sys_admin_pctxt.start(priv_context.Method.FORK)
    target_driver.db = _NoDatabase()
    driver = lvm.LVMVolumeDriver(
        configuration=configuration.Configuration(
            manager.volume_backend_opts, config_group='lvm'),
        host='storage@lvm', cluster_name=None, is_vol_db_empty=True)
    driver.do_setup(context.get_admin_context())
    driver.check_for_setup_error()
    driver.set_initialized()
    return driver


class _NoDatabase:

    def volume_get(self, _context: Any, volume_id: str) -> Any:
        raise exception.VolumeNotFound(volume_id=volume_id)


def _volume(fields: dict[str, Any]) -> objects.Volume:
    kind = objects.Volume
    absent = {name: None for name, field in kind.fields.items()
              if field.nullable and name not in kind.OPTIONAL_FIELDS}
    return kind(context.get_admin_context(), metadata={},
                volume_attachment=objects.VolumeAttachmentList(objects=[]),
                **absent | fields)


def attach(volume_id: str, connector: dict[str, Any]) -> dict[str, Any]:
    """Create a volume of 1 GiB and export it, as the manager does.

    :returns: ``volume`` for ``detach``, ``info`` (connection_info), and
        ``path`` of the logical volume
    """
    made = driver()
    admin = context.get_admin_context()
    volume = _volume({'id': volume_id, 'size': 1,
                      'host': 'storage@lvm#lvm', 'provider_location': None,
                      'provider_auth': None})
    made.create_volume(volume)
    made.validate_connector(connector)
    for name, value in made.create_export(admin, volume,
                                          connector).items():
        setattr(volume, name, value)
    info = made.initialize_connection(volume, connector)
    return {'volume': {name: getattr(volume, name) for name in FIELDS},
            'info': info, 'path': made.local_path(volume)}


def connection(fields: dict[str, Any],
               connector: dict[str, Any]) -> dict[str, Any]:
    """The connection_info of a volume that is exported already."""
    return driver().initialize_connection(_volume(fields), connector)


def detach(fields: dict[str, Any], connector: dict[str, Any]) -> None:
    """Remove the export and the volume."""
    made = driver()
    volume = _volume(fields)
    made.terminate_connection(volume, connector)
    made.remove_export(context.get_admin_context(), volume)
    made.delete_volume(volume)
