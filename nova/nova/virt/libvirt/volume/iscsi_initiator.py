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

"""Which initiator an iSCSI volume is reached through on this host.

Either the host logs in and the guest gets the SCSI device (os-brick), or QEMU
logs in by itself and the host has no device. The choice is made when the
volume is connected and is kept with the connection information: a change of
the configuration must not send the disconnect to the other initiator, which
would strand the session of the first.

The choice also keeps, for QEMU, what the guest's disk refers to: the path that
answered, the name QEMU logs in as, and the libvirt secret. It holds no
password, and with it any host can tell how the disk looks.
"""

import typing as ty
import uuid

from os_brick import initiator
from os_brick.initiator import connector
from oslo_log import log as logging
from oslo_serialization import jsonutils

import nova.conf
from nova import exception
from nova.i18n import _
from nova import objects
from nova import utils
from nova.virt.libvirt import host as libvirt_host
from nova.virt.libvirt.volume import iscsi_elsewhere

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

HOST = 'host'
QEMU = 'qemu'
#: While disconnecting only: this host has no connection that it knows of.
ELSEWHERE = 'elsewhere'

#: The key in connection_info['data'] that holds the choice: a dict of
#: ``name`` (of the initiator) and ``host`` (that connected), and for QEMU
#: those of LibvirtNetISCSIVolumeDriver. The BDM carries it over when it gets
#: fresh connection information from Cinder.
CHOICE = 'nova_initiator'

#: The key of front-end QoS specs that overrides [libvirt]iscsi_initiator for
#: the volumes of a type.
QOS_KEY = 'iscsi_initiator'

#: What the libvirt driver knows the volume drivers by: that of QEMU's
#: initiator, and the one for a volume that is not to be touched here.
QEMU_DRIVER_TYPE = 'iscsi+qemu'
ELSEWHERE_DRIVER_TYPE = 'iscsi+elsewhere'

_DRIVER_TYPES = {QEMU: QEMU_DRIVER_TYPE, ELSEWHERE: ELSEWHERE_DRIVER_TYPE}

_GENERATED_NAMES = uuid.UUID('9c0f4c0e-2f2d-5c0a-8f43-64a1f0a6d6b9')


def driver_type(connection_info: dict[str, ty.Any]) -> str | None:
    """The key of VOLUME_DRIVERS for a connected volume."""
    choice = _choice(connection_info) or {}
    return _DRIVER_TYPES.get(choice.get('name'),
                             connection_info.get('driver_volume_type'))


def choose(connection_info: dict[str, ty.Any]) -> None:
    """Decide which initiator connects a volume, unless that is decided.

    :param connection_info: is marked with the choice
    :raises: InvalidISCSIConnection for an unknown initiator in the QoS specs
    """
    if not _is_iscsi(connection_info) or _connected_here(connection_info):
        return
    data = connection_info['data']
    if _has_device(connection_info):
        name = HOST
    else:
        name = _wanted(data)
    if name == QEMU:
        data.pop('device_path', None)
        obstacle = _obstacle(data)
        if obstacle:
            LOG.info('Volume %(volume)s is connected by the host\'s iSCSI '
                     'initiator, not QEMU\'s: %(why)s.',
                     {'volume': data.get('volume_id'), 'why': obstacle})
            name = HOST
    data[CHOICE] = {'name': name, 'host': CONF.host}


def recall(connection_info: dict[str, ty.Any], instance: objects.Instance,
           host: libvirt_host.Host) -> None:
    """Find out which initiator connected a volume that is to be disconnected.

    A connection_info that this host did not connect has no choice of its own.
    It is that of another host (after an evacuation), from before there was a
    choice, or of a volume that was never reached. One with a device of this
    host was the host's; else QEMU's if that is the configuration, whose
    disconnect leaves sessions alone. With another host's, the host's initiator
    disconnects what is seen to be this guest's and nothing else.

    :param connection_info: is marked with what was found out
    :param instance: whose volume it is
    :param host: this one, which may still have the guest
    """
    if not _is_iscsi(connection_info) or _connected_here(connection_info):
        return
    data = connection_info['data']
    has_device = _has_device(connection_info)
    elsewhere = (_choice(connection_info) or {}).get('host')
    data.pop(CHOICE, None)
    if not has_device and _configured_for_qemu(data):
        data[CHOICE] = {'name': QEMU, 'host': CONF.host}
    elif elsewhere:
        # The device_path is that host's. An encryptor closes, and os-brick
        # unlinks, what has the name here.
        data.pop('device_path', None)
        device = iscsi_elsewhere.own_device(
            host, instance, connection_info, elsewhere)
        if device:
            data['device_path'] = device
        else:
            data[CHOICE] = {'name': ELSEWHERE, 'host': elsewhere}


def forget(connection_info: dict[str, ty.Any]) -> None:
    """Let the next connect decide anew, after a disconnect."""
    if _is_iscsi(connection_info):
        connection_info['data'].pop(CHOICE, None)
        connection_info['data'].pop('device_path', None)


def initiator_name() -> str:
    """The name that this host's guests log in as, and its connector tells.

    The one of the host's initiator where there is one. A host without
    open-iscsi that is set to ``qemu`` gets a name made from that of the
    compute service.

    :raises: InvalidISCSIConnection when there is none
    """
    host = connector.InitiatorConnector.factory(
        initiator.ISCSI, utils.get_root_helper())
    name = host.get_initiator()
    if name:
        return name
    if CONF.libvirt.iscsi_initiator != QEMU:
        # Only a volume type asks for QEMU; Cinder has not been told of a
        # name, so no target could let it in.
        raise exception.InvalidISCSIConnection(
            key='initiator', reason=_(
                'this host has no iSCSI initiator name; install open-iscsi '
                'or set [libvirt]iscsi_initiator = qemu'))
    return ('iqn.2010-10.org.openstack:'
            f'{uuid.uuid5(_GENERATED_NAMES, CONF.host)}')


def complete_connector(properties: dict[str, ty.Any]) -> dict[str, ty.Any]:
    """Add the initiator's name to a connector that has none.

    :param properties: from os-brick, for Cinder
    """
    if CONF.libvirt.iscsi_initiator == QEMU and not properties.get(
            'initiator'):
        properties['initiator'] = initiator_name()
    return properties


def check_source(migrate_data, connection_infos: ty.Iterable) -> None:
    """Refuse a migration whose source can not write the destination's disks.

    A source that predates ``disk_xml`` describes each volume as a device of
    the host; for one that QEMU connects there is none, and it would fail in
    the middle of the migration.

    :param migrate_data: LibvirtLiveMigrateData as the source returned it
    :param connection_infos: of the volumes, to be connected here
    :raises: MigrationPreCheckError
    """
    if migrate_data and 'src_supports_dest_disk_xml' in migrate_data:
        return
    for info in connection_infos:
        if _is_iscsi(info) and _configured_for_qemu(info['data']):
            raise exception.MigrationPreCheckError(reason=_(
                'volume %s is to be connected by QEMU\'s iSCSI initiator '
                'here, and the source host is too old to write that into the '
                'guest. Upgrade the source, or set '
                '[libvirt]iscsi_initiator = host on the destination') %
                info['data'].get('volume_id'))


def precheck_source(context, instance, migrate_data) -> None:
    """As check_source, before there are attachments for the destination.

    :raises: MigrationPreCheckError
    """
    if CONF.libvirt.iscsi_initiator == QEMU:
        bdms = objects.BlockDeviceMappingList.get_by_instance_uuid(
            context, instance.uuid)
        check_source(migrate_data, [
            jsonutils.loads(bdm.connection_info) for bdm in bdms
            if bdm.connection_info])


def _is_iscsi(connection_info: dict[str, ty.Any]) -> bool:
    return (connection_info.get('driver_volume_type') == 'iscsi' and
            isinstance(connection_info.get('data'), dict))


def _choice(connection_info: dict[str, ty.Any]) -> dict | None:
    if not connection_info or not _is_iscsi(connection_info):
        return None
    choice = connection_info['data'].get(CHOICE)
    return choice if isinstance(choice, dict) else None


def _connected_here(connection_info: dict[str, ty.Any]) -> bool:
    choice = _choice(connection_info)
    return choice is not None and choice.get('host') == CONF.host


def _has_device(connection_info: dict[str, ty.Any]) -> bool:
    """Whether this host connected the volume before there were choices.

    With the choice of another host, the device is that host's.
    """
    return (_choice(connection_info) is None and
            'device_path' in connection_info['data'])


def _wanted(data: dict[str, ty.Any]) -> str:
    qos = data.get('qos_specs')
    name = qos.get(QOS_KEY) if isinstance(qos, dict) else None
    if name is None:
        return CONF.libvirt.iscsi_initiator
    if name not in (HOST, QEMU):
        raise exception.InvalidISCSIConnection(
            key=f'qos_specs.{QOS_KEY}',
            reason=_('%r is neither host nor qemu') % (name,))
    return name


def _obstacle(data: dict[str, ty.Any]) -> str | None:
    """Why QEMU can not connect this volume, or None."""
    if CONF.libvirt.virt_type not in ('kvm', 'qemu'):
        return f'virt_type is {CONF.libvirt.virt_type}'
    if data.get('encrypted'):
        return 'it is encrypted'
    return None


def _configured_for_qemu(data: dict[str, ty.Any]) -> bool:
    try:
        return _wanted(data) == QEMU and not _obstacle(data)
    except exception.InvalidISCSIConnection:
        # Nothing was ever connected with such a value.
        return False
