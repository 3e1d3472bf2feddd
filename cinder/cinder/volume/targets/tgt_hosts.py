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
"""tgtd's part in targets of hosts: targets, units and accounts."""

from collections.abc import Callable
import re
import time
from typing import Any

from oslo_log import log as logging

from cinder import exception
from cinder.i18n import _
from cinder.privsep.targets import tgt_control
from cinder import utils
from cinder.volume.targets import host_targets
from cinder.volume.targets import iscsi_portals
from cinder.volume.targets import tgt_portals

LOG = logging.getLogger(__name__)

#: tgtd keeps a unit or a target for a moment after its initiator has left, and
#: initiators do not come back at once.
_PATIENCE_S = 10.0
_IN_USE = (tgt_control.TARGET_ACTIVE, tgt_control.UNIT_ACTIVE)
_TARGET = re.compile(r'Target \d+: (\S+)')
_UNIT = re.compile(r' {8}LUN: (\d+)')
_SERIAL = re.compile(r' +SCSI SN: (\S*)')
_PATH = re.compile(r' +Backing store path: (\S.*)')


class Tgtd:
    """The targets of hosts on this host's tgtd."""

    #: LUN 0 is tgtd's own.
    FIRST_LUN = 1

    def __init__(self, configuration: Any) -> None:
        self._configuration = configuration
        self._flags = configuration.safe_get('iscsi_target_flags') or None

    def listen(self) -> None:
        tgt_portals.listen(iscsi_portals.addresses(self._configuration),
                           self._configuration.target_port)

    def iqns(self) -> set[str]:
        return set(tgt_control.tids())

    def read(self) -> dict[str, dict[int, host_targets.Unit]]:
        """What there is: IQN -> LUN -> unit."""
        found: dict[str, dict[int, host_targets.Unit]] = {}
        units: dict[int, host_targets.Unit] = {}
        lun, serial = 0, ''
        # Not by splitlines(), which knows more ends of lines than tgtd, and
        # initiators have a say in what is shown.
        for line in tgt_control.show_targets().split('\n'):
            if match := _TARGET.fullmatch(line):
                units = found[match[1]] = {}
            elif match := _UNIT.fullmatch(line):
                lun, serial = int(match[1]), ''
            elif match := _SERIAL.fullmatch(line):
                serial = match[1]
            elif lun and (match := _PATH.fullmatch(line)):
                units[lun] = host_targets.Unit(lun, match[1], serial)
        return found

    @utils.synchronized('tgt-targets', external=True)
    def add_target(self, iqn: str) -> None:
        known = tgt_control.tids()
        tid = max(known.values(), default=0) + 1
        while True:
            try:
                return tgt_control.add_target(tid, iqn)
            except tgt_control.TgtdError as error:
                # Of a name too; the number may be of what else uses tgtd.
                if (error.number != tgt_control.TARGET_EXISTS or
                        iqn in tgt_control.tids()):
                    raise
                tid += 1

    def admit(self, iqn: str, initiator: str, user: str,
              password: str) -> None:
        tid = self._tid(iqn)
        _unless(tgt_control.ACCOUNT_EXISTS, tgt_control.add_account, user,
                password)
        _unless(tgt_control.ACCOUNT_EXISTS, tgt_control.bind_account, tid,
                user)
        # Without an account tgtd lets in whoever has this name.
        _unless(tgt_control.RULE_EXISTS, tgt_control.admit, tid, initiator)

    def remove_target(self, iqn: str, user: str) -> None:
        tid = tgt_control.tids().get(iqn)
        if tid and not self.read().get(iqn):
            try:
                _patiently(tgt_control.remove_target, tid)
            except tgt_control.TgtdError as error:
                if error.number != tgt_control.TARGET_ACTIVE:
                    raise
                # Who is logged in has nothing there.
                tgt_control.remove_target(tid, force=True)
        if user:
            _unless(tgt_control.NO_ACCOUNT, tgt_control.remove_account, user)

    def add_lun(self, iqn: str, unit: host_targets.Unit) -> None:
        tid = self._tid(iqn)
        try:
            tgt_control.add_unit(tid, unit.lun, unit.path, unit.identity,
                                 self._flags)
        except tgt_control.TgtdError as error:
            if error.number != tgt_control.UNIT_EXISTS:
                # It may be there, by a name of tgtd's own making.
                self.remove_lun(iqn, unit.lun)
            raise

    def remove_lun(self, iqn: str, lun: int) -> None:
        tid = tgt_control.tids().get(iqn)
        if tid:
            _unless(tgt_control.NO_UNIT, _patiently, tgt_control.remove_unit,
                    tid, lun)

    def resize(self, iqn: str, lun: int, path: str) -> None:
        """Also wait for the initiators, whose sessions end with that.

        They are told to look at the size next.
        """
        tid = self._tid(iqn)
        before = tgt_control.connections(tid)
        tgt_control.resize_unit(tid, lun, path)
        deadline = time.monotonic() + _PATIENCE_S
        while tgt_control.connections(tid) < before:
            if time.monotonic() > deadline:
                LOG.warning('Some initiators have not come back to %s since '
                            'a volume was extended. They have to look for '
                            'its size then.', iqn)
                break
            time.sleep(0.1)

    def _tid(self, iqn: str) -> int:
        # Another target may have the number that this one had before.
        try:
            return tgt_control.tids()[iqn]
        except KeyError:
            raise exception.ISCSITargetHelperCommandFailed(
                error_message=_('tgtd has no target %s') % iqn)


def _unless(number: int, call: Callable[..., None], *args: Any) -> None:
    """Call, and take one answer for success."""
    try:
        call(*args)
    except tgt_control.TgtdError as error:
        if error.number != number:
            raise


def _patiently(call: Callable[..., None], *args: Any) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return call(*args)
        except tgt_control.TgtdError as error:
            if error.number not in _IN_USE or time.monotonic() > deadline:
                raise
        time.sleep(0.1)
