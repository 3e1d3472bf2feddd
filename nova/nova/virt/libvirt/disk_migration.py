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

"""Give a migrating guest's disks the destination's way to their volumes.

A volume may reach every compute host by another road: its own target, IQN, LUN
and secret, a host device here and QEMU's initiator there. Once it has
connected the volume, the destination therefore describes the disk as it would
define it (``disk_xml`` of LibvirtLiveMigrateBDMInfo), and the source puts the
part of that description that concerns the host into the guest's XML. What the
guest sees of its disk (address, serial, boot order) and the alias that Nova
finds it by stay as they are.
"""

import copy
import typing as ty

from lxml import etree
from oslo_log import log as logging

from nova import exception
from nova.i18n import _
from nova.virt.libvirt import config as vconfig

LOG = logging.getLogger(__name__)

#: The children of <disk> that belong to the host. The destination's replace
#: the source's, and what the destination does not have is dropped. <auth> is
#: the fourth: see _put_source.
_HOST_SIDE = ('encryption', 'iotune', 'readonly', 'shareable')

#: Attributes of <driver> that the guest can tell: libvirt refuses to migrate
#: a guest when they change, and a volume driver knows nothing about them.
_GUEST_DRIVER_ATTRIBUTES = frozenset((
    'ats', 'event_idx', 'ioeventfd', 'iommu', 'iothread', 'packed',
    'page_per_vq', 'queue_size', 'queues'))

#: Never needed to rewrite XML, and the migration data is logged.
_PASSWORDS = ('auth_password', 'discovery_auth_password')


def without_passwords(connection_info: dict) -> dict:
    """A copy of a connection_info that may travel and be logged.

    :param connection_info: as Cinder returned it, connected on this host
    :returns: the same without the CHAP passwords of its ``data``
    """
    copied = copy.deepcopy(connection_info)
    for key in _PASSWORDS:
        copied.get('data', {}).pop(key, None)
    return copied


def update_disks(xml_doc: etree.Element, migrate_data,
                 get_volume_config: ty.Callable) -> etree.Element:
    """Rewrite the volumes among a domain's disks for the destination.

    :param xml_doc: the domain, changed in place
    :param migrate_data: LibvirtLiveMigrateData with the destination's bdms
    :param get_volume_config: describes a volume to this host; used for a
        destination that predates ``disk_xml`` only
    :returns: xml_doc
    :raises: MigrationError when the destination's description of a volume is
        no <disk>, or the guest has no such disk
    """
    disks = xml_doc.findall('./devices/disk')
    described = [(bdm, _destination_disk(bdm, get_volume_config))
                 for bdm in migrate_data.bdms if bdm.connection_info]
    # By name last of all, and among those that are left: a volume that was
    # swapped in has the serial and the alias of the one before it.
    for is_same in (_has_serial, _has_alias, _has_device_name):
        for bdm, dest in list(described):
            disk = next((disk for disk in disks
                         if is_same(disk, bdm, dest)), None)
            if disk is not None:
                LOG.debug('Volume %(serial)s: the path of the destination '
                          'replaces that of the source.',
                          {'serial': bdm.serial})
                _rewrite(disk, dest)
                disks.remove(disk)
                described.remove((bdm, dest))
    for bdm, _dest in described:
        _assert_local(bdm, disks)
    return xml_doc


def _assert_local(bdm, disks: list[etree.Element]) -> None:
    """See that a volume which matched no disk is none of the guest's.

    A disk without serial and alias is taken for a local one, even if it has
    the device name of the volume.

    :raises: MigrationError when no disk has that name
    """
    if any(_attribute(disk, 'target', 'dev') == bdm.dev for disk in disks):
        LOG.warning('The disk %(dev)s has no serial: it keeps the path of '
                    'the source, though volume %(serial)s has that name.',
                    {'dev': bdm.dev, 'serial': bdm.serial})
        return
    # To send the path of the source could name another volume there.
    raise exception.MigrationError(reason=_(
        'the guest has no disk for volume %s') % bdm.serial)


def _destination_disk(bdm, get_volume_config: ty.Callable) -> etree.Element:
    if 'disk_xml' in bdm and bdm.disk_xml:
        return _parse_disk(bdm)
    conf = get_volume_config(bdm.connection_info, bdm.as_disk_info())
    # The configuration was built with the secrets of this host. Only the
    # destination knows whether there is one on the destination.
    conf.volume_encryption = _encryption(bdm)
    return etree.fromstring(conf.to_xml(), _parser())


def _parser() -> etree.XMLParser:
    # What another host sent is data: no entity, and nothing fetched.
    return etree.XMLParser(
        remove_blank_text=True, resolve_entities=False, no_network=True)


def _parse_disk(bdm) -> etree.Element:
    try:
        disk = etree.fromstring(bdm.disk_xml, _parser())
    except (etree.XMLSyntaxError, ValueError):
        disk = None
    if disk is None or disk.tag != 'disk':
        raise exception.MigrationError(reason=_(
            'disk_xml: the destination did not describe volume %s by a disk '
            'element') % bdm.serial)
    return disk


def _encryption(bdm) -> vconfig.LibvirtConfigGuestDiskEncryption | None:
    if ('encryption_secret_uuid' not in bdm or
            bdm.encryption_secret_uuid is None):
        return None
    encryption = vconfig.LibvirtConfigGuestDiskEncryption()
    encryption.format = 'luks'
    encryption.secret = vconfig.LibvirtConfigGuestDiskEncryptionSecret()
    encryption.secret.type = 'passphrase'
    encryption.secret.uuid = bdm.encryption_secret_uuid
    return encryption


def _has_serial(disk: etree.Element, bdm, dest: etree.Element) -> bool:
    return disk.findtext('serial') == bdm.serial


def _has_alias(disk: etree.Element, bdm, dest: etree.Element) -> bool:
    # device='lun' has no serial; Nova's own alias names the volume.
    alias = _attribute(disk, 'alias', 'name')
    return (alias is not None and alias.startswith('ua-') and
            alias == _attribute(dest, 'alias', 'name'))


def _has_device_name(disk: etree.Element, bdm, dest: etree.Element) -> bool:
    # Unique in a domain, and told by the block device mapping on each host.
    is_volume = disk.get('device') == 'lun' or disk.findtext('serial')
    return bool(is_volume) and _attribute(disk, 'target', 'dev') == bdm.dev


def _attribute(disk: etree.Element, tag: str, name: str) -> str | None:
    element = disk.find(tag)
    return None if element is None else element.get(name)


def _rewrite(disk: etree.Element, dest: etree.Element) -> None:
    _put_source(disk, dest)
    _put_driver(disk, dest)
    target = disk.find('target')
    if target is not None and dest.find('target') is not None:
        target.attrib.update(dest.find('target').attrib)
    for tag in _HOST_SIDE:
        _put(disk, tag, dest.find(tag))
    if disk.find('alias') is None:
        # A guest from before Nova named its disks: it gets the name now.
        _put(disk, 'alias', dest.find('alias'))


def _put_source(disk: etree.Element, dest: etree.Element) -> None:
    # The type, <source> and <auth> are one: an <auth> of the old source on
    # the new one, or an iSCSI source in a disk of type block, is refused.
    if dest.find('source') is None:
        return
    disk.set('type', dest.get('type'))
    _put(disk, 'auth', dest.find('auth'))
    _put(disk, 'source', dest.find('source'))


def _put_driver(disk: etree.Element, dest: etree.Element) -> None:
    new, old = dest.find('driver'), disk.find('driver')
    if new is None:
        return
    if old is not None:
        for name in _GUEST_DRIVER_ATTRIBUTES & set(old.attrib):
            new.set(name, old.get(name))
    _put(disk, 'driver', new)


def _put(disk: etree.Element, tag: str, new: etree.Element | None) -> None:
    """Put `new` in the place of the disk's `tag` elements, or drop them."""
    olds = disk.findall(tag)
    before = olds or disk.findall('address')
    place = disk.index(before[0]) if before else len(disk)
    for old in olds:
        disk.remove(old)
    if new is not None:
        new.tail = None
        disk.insert(place, new)
