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

"""Whether two hosts reach the same volume.

When each host has its own target, IQN and LUN for a volume, nothing in these
shows that they lead to the same one. A guest that is resumed on another's
volume destroys it, and its own. SCSI has names for the volume itself, in the
vital product data (SPC-4 7.8): the source of a live migration tells those that
it sees, and the destination compares them with what it has connected.
"""

import collections
import dataclasses
import re
import sys
import typing as ty

from oslo_concurrency import processutils
from oslo_log import log as logging
from oslo_serialization import jsonutils

import nova.conf
from nova import exception
from nova.i18n import _
from nova import objects
from nova.virt.libvirt import config as vconfig
from nova.virt.libvirt import host as libvirt_host
from nova.virt.libvirt.volume import iscsi_connection
from nova.virt.libvirt.volume import iscsi_elsewhere
from nova.virt.libvirt.volume import iscsi_initiator
from nova.virt.libvirt.volume import iscsi_inquiry
from nova.virt.libvirt.volume import iscsi_probe

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

_UNIT = 0
_T10, _EUI, _NAA, _NAME, _UUID = 1, 2, 3, 8, 10
#: Of a locally assigned NAA, its first four bits: others may have it as well.
_LOCAL = '3'
#: tgt's own T10 identification: a target's number and a LUN. Its other names
#: are made of these as well, so they are another volume's on the next node, or
#: when tgtd has been restarted.
_NUMBERED = re.compile(rb'IET +[0-9a-f]{8}')
#: The kinds of names. The first that two hosts both see decides: the others
#: are less sure to be unique.
_KINDS = {_NAA: 'naa', _EUI: 'eui', _UUID: 'uuid', _NAME: 'name', _T10: 't10'}
_SERIAL = 'serial'
_DECIDE = (*_KINDS.values(), _SERIAL)

#: Seconds in which a program starts and ends.
_GRACE = 10
_SYS_BLOCK = '/sys/block'


class Unknown(Exception):
    """The names of a volume can not be had."""


def known(host: libvirt_host.Host, instance: objects.Instance,
          block_device_info: dict[str, ty.Any] | None
          ) -> dict[str, list[str]]:
    """The names of an instance's iSCSI volumes that this host sees.

    They are of what the guest has: block_device_info may tell of devices that
    had other names before this host was booted.

    :param instance: runs here
    :returns: the names, as ``naa.6001405...``, by the volumes' serials; of a
        volume of which none can be had, nothing
    """
    volumes = _volumes((block_device_info or {}).get(
        'block_device_mapping') or [])
    if not CONF.libvirt.iscsi_check_identity or not volumes:
        return {}
    disks = iscsi_elsewhere.guest_disks(host, instance)
    found = {}
    for serial, names in _names(volumes, lambda serial, _info: _in_guest(
            iscsi_elsewhere.disk_of(disks, serial))).items():
        if isinstance(names, Unknown):
            LOG.warning('Whether volume %(volume)s is the same on another '
                        'host will not be known: %(why)s',
                        {'volume': serial, 'why': names}, instance=instance)
        else:
            found[serial] = sorted(names)
    return found


def checked(migrate_data: ty.Any) -> dict[str, ty.Callable]:
    """How to connect a volume: checked before anything is done to its device.

    A volume that is to be encrypted and does not look it is formatted when its
    encryptor is attached.
    """
    if not _comparable(migrate_data):
        return {}
    return {'check': lambda info: _is_device(info) and check(
        migrate_data, [{'connection_info': info}])}


def _comparable(migrate_data: ty.Any) -> bool:
    return (CONF.libvirt.iscsi_check_identity and bool(migrate_data) and
            'src_volume_identities' in migrate_data)


def check(migrate_data: ty.Any, mapping: ty.Iterable) -> None:
    """See that the volumes that were connected are the source's.

    :param migrate_data: with ``src_volume_identities``, as ``known`` returned
        it on the source; an older source has none
    :param mapping: the block device mapping, connected on this host
    :raises: MigrationPreCheckError naming a volume that is another
    """
    if not _comparable(migrate_data):
        return
    theirs = migrate_data.src_volume_identities
    ours = {serial: info for serial, info in _volumes(mapping).items()
            if serial in theirs}
    for serial, names in _names(
            ours, lambda _serial, info: _connected(info)).items():
        why = _difference(set(theirs[serial]), names)
        if why:
            raise exception.MigrationPreCheckError(reason=_(
                'volume %(volume)s is not known to be the source\'s (see '
                '[libvirt]iscsi_check_identity): %(why)s') %
                {'volume': serial, 'why': why})


def _difference(theirs: set[str], ours: set[str] | Unknown) -> str | None:
    """Why names are not those of one volume; None if they are."""
    if isinstance(ours, Unknown):
        return str(ours)
    for kind in _DECIDE:
        there, here = (_of_kind(names, kind) for names in (theirs, ours))
        if there and here:
            return None if there & here else _(
                'there %(there)s, here %(here)s') % {
                    'there': ', '.join(sorted(there)),
                    'here': ', '.join(sorted(here))}
    return _('the hosts see no names of one kind')


def _of_kind(names: set[str], kind: str) -> set[str]:
    return {name for name in names if name.startswith(f'{kind}.')}


def _volumes(mapping: ty.Iterable) -> dict[str, dict[str, ty.Any]]:
    """The iSCSI volumes' connection_info by their serials."""
    infos = [bdm['connection_info'] or {} for bdm in mapping]
    return {info['serial']: info for info in infos
            if info.get('serial') and
            info.get('driver_volume_type') == 'iscsi'}


@dataclasses.dataclass(frozen=True)
class _Login:
    """How QEMU's initiator reaches a volume."""

    path: iscsi_connection.Path
    initiator: str


def _in_guest(disk: vconfig.LibvirtConfigGuestDisk | None) -> str | _Login:
    """Where a guest that runs here has a volume: a device, or a login.

    :raises: Unknown
    """
    if disk is None:
        raise Unknown(_('the guest has no disk that is known to be it'))
    if disk.source_type == 'block' and disk.source_path:
        return disk.source_path
    if disk.source_type == 'network' and disk.source_protocol == 'iscsi':
        target, _slash, lun = disk.source_name.rpartition('/')
        return _Login(iscsi_connection.Path(
            disk.source_hosts[0], int(disk.source_ports[0]), target,
            int(lun)), disk.initiator_iqn)
    raise Unknown(_('its disk in the guest is of type %s') %
                  disk.source_type)


def _is_device(info: dict[str, ty.Any]) -> bool:
    """Whether the host's initiator has connected a volume."""
    return (iscsi_initiator.driver_type(info) !=
            iscsi_initiator.QEMU_DRIVER_TYPE)


def _connected(info: dict[str, ty.Any]) -> str | _Login:
    """Where this host has connected a volume.

    :raises: Unknown
    """
    data = info['data']
    if _is_device(info):
        return data.get('device_path') or ''
    choice = data[iscsi_initiator.CHOICE]
    if 'target' not in choice:
        raise Unknown(_('it has not been connected'))
    host, port = choice['portal']
    return _Login(iscsi_connection.Path(host, port, choice['target'],
                                        choice['lun']), choice['iqn'])


def _names(volumes: dict[str, dict[str, ty.Any]],
           find: ty.Callable[[str, dict[str, ty.Any]], str | _Login]
           ) -> dict[str, set[str] | Unknown]:
    """The names of volumes by their serials, or why there are none.

    :param find: given a serial and a connection_info, where to look
    """
    found: dict[str, set[str] | Unknown] = {}
    targets = collections.defaultdict(dict)
    for serial, info in volumes.items():
        try:
            where = find(serial, info)
            if isinstance(where, _Login):
                key = (where.path.portal, where.path.iqn, where.initiator,
                       iscsi_connection.parse(info['data']).chap)
                targets[key][serial] = where.path.lun
            else:
                found[serial] = _of_device(where)
        except Unknown as why:
            found[serial] = why
        except exception.InvalidISCSIConnection as error:
            found[serial] = Unknown(str(error))
        except Exception as error:
            # A source that can not look must be able to migrate.
            found[serial] = Unknown(repr(error))
    return found | (_ask(targets) if targets else {})


def _of_device(path: str) -> set[str]:
    """The names of what is behind a device of this host.

    The kernel read them when it found the device.

    :raises: Unknown also when the paths of a multipath device differ
    """
    told = []
    for disk in iscsi_elsewhere.disks_below(path) if path else ():
        pages = [_read(f'{_SYS_BLOCK}/{disk}/device/vpd_pg{page}')
                 for page in ('83', '80')]
        if any(pages):
            told.append(_telling(_designators(pages[0]), pages[1][4:]))
    if not told:
        raise Unknown(_('%s has no names in sysfs') % path)
    names = set.intersection(*told)
    if not names:
        raise Unknown(_('the paths of %s have no name in common') % path)
    return names


def _read(path: str) -> bytes:
    try:
        with open(path, 'rb') as file:
            return file.read()
    except OSError:
        return b''


def _designators(page: bytes) -> ty.Iterator[tuple[int, int, bytes]]:
    """Association, type and value of each on page 0x83 (SPC-4 7.8.6)."""
    rest = page[4:4 + int.from_bytes(page[2:4])]
    while len(rest) >= 4:
        end = 4 + rest[3]
        yield rest[1] >> 4 & 3, rest[1] & 15, rest[4:end]
        rest = rest[end:]


def _ask(targets: dict[tuple, dict[str, int]]
         ) -> dict[str, set[str] | Unknown]:
    """Log in to each target once, and ask its LUNs.

    :param targets: LUNs by volumes' serials, by portal, IQN, initiator's name
        and credentials
    """
    asked = [{'portal': portal, 'iqn': iqn, 'initiator': initiator,
              'luns': list(luns.values())} |
             ({'username': chap.username, 'password': chap.password}
              if chap else {})
             for (portal, iqn, initiator, chap), luns in targets.items()]
    deadline = CONF.libvirt.iscsi_probe_timeout
    try:
        # Run by its path: Nova's own modules take seconds to load.
        answers = jsonutils.loads(iscsi_probe.run(
            deadline + _GRACE, jsonutils.dump_as_bytes(
                {'deadline': deadline, 'targets': asked}),
            sys.executable, '-I', '-S', iscsi_inquiry.__file__))
    except (processutils.ProcessExecutionError, OSError,
            ValueError) as error:
        LOG.warning('%s failed: %s', iscsi_inquiry.__file__, error)
        why = Unknown(_('the LUNs could not be asked'))
        return {serial: why for luns in targets.values() for serial in luns}
    return {serial: _answered(answer)
            for luns, told in zip(targets.values(), answers)
            for serial, answer in zip(luns, told)}


def _answered(answer: dict[str, ty.Any]) -> set[str] | Unknown:
    if 'error' in answer:
        return Unknown(answer['error'])
    try:
        return _telling(
            ((association, kind, bytes.fromhex(value))
             for association, kind, value in answer['designators']),
            bytes.fromhex(answer['serial'] or ''))
    except Unknown as why:
        return why


def _telling(designators: ty.Iterable[tuple[int, int, bytes]],
             serial: bytes) -> set[str]:
    """Those of the names that are the unit's, and no other's.

    :param serial: from page 0x80 (SPC-4 7.8.15)
    :raises: Unknown when there is none
    """
    designators = list(designators)
    if any(kind == _T10 and _NUMBERED.fullmatch(value.strip(b' \0'))
           for _association, kind, value in designators):
        raise Unknown(_('its names are but the numbers of a target and a '
                        'LUN'))
    names = {f'{_KINDS[kind]}.{_text(kind, value)}'
             for association, kind, value in designators
             if association == _UNIT and kind in _KINDS and value and
             not (kind == _NAA and value.hex().startswith(_LOCAL))}
    if serial.strip(b' \0'):
        names.add(f'{_SERIAL}.{_text(_T10, serial)}')
    if not names:
        raise Unknown(_('the LUN has no name of its own'))
    return names


def _text(kind: int, value: bytes) -> str:
    text = value.strip(b' \0')
    if kind in (_T10, _NAME) and re.fullmatch(rb'[!-~]([ -~]*[!-~])?', text):
        return text.decode()
    return value.hex()
