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

"""Disconnecting by what another host was told.

A portal, IQN and LUN are good for the host that Cinder named them for. Where
hosts have targets or LUNs of their own, the same three can stand for another
guest's volume on the next host, and to disconnect by them takes the disk from
under that guest. So with connection information that was made for another host
the host's initiator disconnects only what is seen to be the disk of the guest
at hand, and leaves all else as it is.

That is the case after an evacuation: the old host, once it is back, has the
guest's domain and finds the new host's information in the database. Where one
target serves all hosts the domain's disk proves itself, and it is disconnected
as ever.

Moves that both hosts take part in do not come here with anything to lose. The
source of a live migration disconnects by the BDMs that it kept from before,
the source of a cold migration, resize or shelve before the BDM is changed, and
a destination by what it stamped when it connected. What a destination still
holds under the source's stamp it never connected: the volumes after the one
that failed, and the source's BDMs that the last step of a rollback goes by,
when the destination's own are disconnected already.
"""

import glob
import os
import typing as ty

from os_brick.initiator import linuxscsi
from oslo_log import log as logging

from nova import exception
from nova import objects
from nova import utils
from nova.virt import block_device as driver_block_device
from nova.virt.libvirt import config as vconfig
from nova.virt.libvirt import host as libvirt_host
from nova.virt.libvirt.volume import volume

LOG = logging.getLogger(__name__)

_BY_PATH = '/dev/disk/by-path'
_SYS_BLOCK = '/sys/block'


class LibvirtElsewhereISCSIVolumeDriver(volume.LibvirtBaseVolumeDriver):
    """A volume that may not be connected here: nothing of it is undone."""

    def __init__(self, host):
        super().__init__(host, is_block_dev=True)


def own_device(host: libvirt_host.Host, instance: objects.Instance,
               connection_info: dict[str, ty.Any],
               made_for: str) -> str | None:
    """The guest's device on this host, if connection_info stands for it here.

    :param connection_info: of an iSCSI volume
    :param made_for: the name of the host that it was made for
    :returns: the path that the guest's domain has, or None. None is logged as
        a warning if there is anything here that someone should look at.
    """
    volume_id = driver_block_device.get_volume_id(connection_info)
    named = _named_disks(connection_info['data'])
    path = _own_path(host, instance, volume_id)
    own = disks_below(path) if path else set()
    if not named and not own:
        LOG.debug('Volume %(volume)s has no device on this host.',
                  {'volume': volume_id}, instance=instance)
        return None
    if not named or not named <= own:
        why = 'the guest has {} here and it names {}'.format(
            path or 'no device', ', '.join(sorted(named)) or 'none')
    elif _used_by_another(host, instance, volume_id, named):
        why = f"another guest uses {', '.join(sorted(named))}"
    else:
        return path
    LOG.warning('Volume %(volume)s is not disconnected from this host: its '
                'connection information was made for host %(host)s, and '
                '%(why)s. See whether this host still has an iSCSI session '
                'or device of that volume (iscsiadm -m session -P 3), and '
                'remove it if no guest here uses it.',
                {'volume': volume_id, 'host': made_for, 'why': why},
                instance=instance)
    return None


def _named_disks(data: dict[str, ty.Any]) -> set[str]:
    """The kernel's names of what the portals, IQNs and LUNs are here."""
    links = []
    scsi = linuxscsi.LinuxSCSI(utils.get_root_helper())
    for portal, iqn, lun in _targets(data):
        lun = scsi.process_lun_id(scsi.lun_for_addressing(
            int(lun), data.get('addressing_mode')))
        # udev has IPv6 addresses without brackets; where an adapter is the
        # initiator, its PCI address comes first.
        portal = portal.replace('[', '').replace(']', '')
        name = glob.escape(f'ip-{portal}-iscsi-{iqn}-lun-{lun}')
        links += glob.glob(f'{_BY_PATH}/*{name}')
    return set().union(*(
        disks_below(link) for link in links if os.path.exists(link)))


def _targets(data: dict[str, ty.Any]) -> list[tuple]:
    if data.get('target_portals') and data.get('target_iqns'):
        count = len(data['target_portals'])
        luns = data.get('target_luns') or [data.get('target_lun', 0)] * count
        return list(zip(data['target_portals'], data['target_iqns'], luns))
    if data.get('target_portal'):
        return [(data['target_portal'], data.get('target_iqn'),
                 data.get('target_lun', 0))]
    return []


def _own_path(host: libvirt_host.Host, instance: objects.Instance,
              volume_id: str) -> str | None:
    disk = disk_of(filter(_is_device, guest_disks(host, instance)), volume_id)
    return disk.source_path if disk else None


def guest_disks(host: libvirt_host.Host, instance: objects.Instance
                ) -> list[vconfig.LibvirtConfigGuestDisk]:
    """The disks of an instance's domain on this host, if it has one."""
    try:
        return host.get_guest(instance).get_all_disks()
    except (exception.InstanceNotFound, exception.InternalError):
        return []


def disk_of(disks: ty.Iterable[vconfig.LibvirtConfigGuestDisk],
            volume_id: str) -> vconfig.LibvirtConfigGuestDisk | None:
    """That of the disks which is a volume, or None."""
    disks = list(disks)
    for is_same in (_has_serial, _has_alias):
        for disk in disks:
            if is_same(disk, volume_id):
                return disk
    return None


def _is_device(disk: vconfig.LibvirtConfigGuestDisk) -> bool:
    # After a reboot of the host the device may no longer be.
    return (disk.source_type == 'block' and bool(disk.source_path) and
            os.path.exists(disk.source_path))


def _has_serial(disk: vconfig.LibvirtConfigGuestDisk, volume_id: str) -> bool:
    return disk.serial == volume_id


def _has_alias(disk: vconfig.LibvirtConfigGuestDisk, volume_id: str) -> bool:
    # device='lun' has no serial.
    return disk.alias == vconfig.make_libvirt_device_alias(volume_id)


def _used_by_another(host: libvirt_host.Host, instance: objects.Instance,
                     volume_id: str, disks: set[str]) -> bool:
    """Whether another running guest has one of the disks, as another volume.

    A domain that was defined before this host rebooted may name a device that
    has since become another guest's.
    """
    for guest in host.list_guests():
        if guest.uuid == instance.uuid:
            continue
        for disk in guest.get_all_disks():
            if (_is_device(disk) and
                    not _has_serial(disk, volume_id) and
                    not _has_alias(disk, volume_id) and
                    disks_below(disk.source_path) & disks):
                return True
    return False


def disks_below(path: str) -> set[str]:
    """What a device is made of: the paths of a multipath, under dm-crypt."""
    name = os.path.basename(os.path.realpath(path))
    # Links to the devices themselves; a disk has the folder, and it is empty.
    slaves = glob.glob(f'{_SYS_BLOCK}/{glob.escape(name)}/slaves/*')
    return set().union(*map(disks_below, slaves)) if slaves else {name}
