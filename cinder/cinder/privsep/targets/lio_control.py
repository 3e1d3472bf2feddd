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
"""Change the targets of hosts in LIO, with privileges.

By rtslib in the privileged process itself: cinder-rtstool would have the
passwords on its command line. A function that takes away does nothing if that
is not there. Callers see to it that there is one call at a time.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import functools
import os.path
from typing import Any
from typing import Optional

from oslo_log import log as logging
import rtslib_fb

from cinder.i18n import _
import cinder.privsep

LOG = logging.getLogger(__name__)

_TAG = 1
#: What the devices are called that these functions open.
_PREFIX = 'host-scope-'


class LioError(Exception):
    """LIO, or rtslib, refused a change."""


def _telling(call: Callable[..., Any]) -> Callable[..., Any]:
    """Have refusals come out of the privileged process as they are."""
    @functools.wraps(call)
    def wrapped(*args: Any) -> Any:
        try:
            # What it remembers of devices is of its own making only.
            rtslib_fb.RTSRoot().invalidate_caches()
            return call(*args)
        except (rtslib_fb.RTSLibError, OSError) as error:
            raise LioError(f'LIO: {call.__name__}: {error}')
    return wrapped


def _targets() -> Iterator[rtslib_fb.Target]:
    return rtslib_fb.FabricModule('iscsi').targets


def _target(iqn: str) -> Optional[rtslib_fb.Target]:
    return next((each for each in _targets() if each.wwn == iqn), None)


def _group(iqn: str) -> rtslib_fb.TPG:
    """A target's only portal group.

    :raises LioError: there is no such target
    """
    target = _target(iqn)
    if target is None:
        raise LioError(_('LIO has no target %s') % iqn)
    return rtslib_fb.TPG(target, _TAG)


@cinder.privsep.sys_admin_pctxt.entrypoint
@_telling
def iqns() -> list[str]:
    return [target.wwn for target in _targets()]


@cinder.privsep.sys_admin_pctxt.entrypoint
@_telling
def units() -> dict[str, list[tuple[int, str, str]]]:
    """LUN, path and serial number of each unit, by the targets' names.

    Of one that was only begun the latter are empty.
    """
    return {target.wwn: [_unit(lun) for group in target.tpgs
                         for lun in group.luns] for target in _targets()}


def _unit(lun: rtslib_fb.LUN) -> tuple[int, str, str]:
    try:
        device = lun.storage_object
    except rtslib_fb.RTSLibBrokenLink:
        return lun.lun, '', ''
    return lun.lun, device.udev_path, device.wwn


@cinder.privsep.sys_admin_pctxt.entrypoint
@_telling
def add_target(iqn: str) -> None:
    """It is not enabled yet."""
    rtslib_fb.TPG(rtslib_fb.Target(rtslib_fb.FabricModule('iscsi'), iqn),
                  _TAG)


@cinder.privsep.sys_admin_pctxt.entrypoint
@_telling
def remove_target(iqn: str) -> None:
    """Who is logged in is logged out."""
    target = _target(iqn)
    if target:
        target.delete()


@cinder.privsep.sys_admin_pctxt.entrypoint
@_telling
def admit(iqn: str, initiator: str, user: str, password: str,
          portals: Iterable[tuple[str, int]]) -> None:
    """Let one initiator in, to all units, by its name and an account."""
    group = _group(iqn)
    group.set_attribute('authentication', '1')
    group.set_attribute('generate_node_acls', '0')
    rule = rtslib_fb.NodeACL(group, initiator)
    for other in group.node_acls:
        if other.node_wwn != rule.node_wwn:
            other.delete()
    there = _mapped(rule)
    for lun in group.luns:
        if lun.lun not in there:
            rtslib_fb.MappedLUN(rule, lun.lun, lun.lun)
    rule.chap_userid = user
    rule.chap_password = password
    _serve(group, portals)
    group.enable = True


def _mapped(rule: rtslib_fb.NodeACL) -> set[int]:
    """What is shown by a rule, without what was only begun to be."""
    there = set()
    for mapped in rule.mapped_luns:
        try:
            mapped.tpg_lun
        except rtslib_fb.RTSLibBrokenLink:
            mapped.delete()
        else:
            there.add(mapped.mapped_lun)
    return there


def _serve(group: rtslib_fb.TPG,
           portals: Iterable[tuple[str, int]]) -> None:
    """One of them is enough for hosts to go on."""
    served, why = False, None
    for host, port in portals:
        try:
            rtslib_fb.NetworkPortal(group, host, port)
            served = True
        except rtslib_fb.RTSLibError as error:
            LOG.warning('%s:%s is not served: %s', host, port, error)
            why = error
    if why and not served:
        raise why


@cinder.privsep.sys_admin_pctxt.entrypoint
@_telling
def add_unit(iqn: str, number: int, path: str, identity: str) -> None:
    """Show a device to who is let in.

    :raises LioError: also if there is a unit by that LUN
    """
    group = _group(iqn)
    if any(lun.lun == number for lun in group.luns):
        raise LioError(_('LIO has LUN %(lun)d of %(iqn)s') % {
            'lun': number, 'iqn': iqn})
    try:
        rtslib_fb.LUN(group, number, _device(path, identity))
        for rule in group.node_acls:
            rtslib_fb.MappedLUN(rule, number, number)
    except BaseException:
        _remove_unit(group, number)
        raise


def _device(path: str, identity: str) -> rtslib_fb.BlockStorageObject:
    """What stands for a device: the same in all targets."""
    name = _PREFIX + os.path.basename(path)
    try:
        found = rtslib_fb.BlockStorageObject(name)
    except rtslib_fb.RTSLibError:
        return rtslib_fb.BlockStorageObject(name, path, identity)
    if (found.udev_path, found.wwn) != (path, identity):
        raise LioError(_('LIO has %(name)s for %(path)s') % {
            'name': name, 'path': found.udev_path})
    return found


@cinder.privsep.sys_admin_pctxt.entrypoint
@_telling
def remove_unit(iqn: str, number: int) -> None:
    if _target(iqn):
        _remove_unit(_group(iqn), number)


def _remove_unit(group: rtslib_fb.TPG, number: int) -> None:
    for rule in group.node_acls:
        _mapped(rule)
    for lun in group.luns:
        if lun.lun == number:
            lun.delete()
    _close()


@cinder.privsep.sys_admin_pctxt.entrypoint
@_telling
def close() -> None:
    """Let go of the devices that no target has.

    They could not be removed: each is opened for itself alone.
    """
    _close()


def _close() -> None:
    used = {path for target in _targets() for group in target.tpgs
            for _lun, path, _serial in map(_unit, group.luns)}
    for device in rtslib_fb.RTSRoot().storage_objects:
        # To ask the device itself takes long: it looks at all LUNs.
        if (device.name.startswith(_PREFIX) and
                device.udev_path not in used and
                not any(device.attached_luns)):
            device.delete()
