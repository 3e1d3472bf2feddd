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
from typing import Optional

from cinder.privsep.targets import tgt_control
from cinder import utils
from cinder.volume.targets import host_targets

#: tgtd keeps a unit or a target for a moment after its initiator has left.
_PATIENCE_S = 10.0
_IN_USE = (tgt_control.TARGET_ACTIVE, tgt_control.UNIT_ACTIVE)
_TARGET = re.compile(r'Target \d+: (\S+)')
_UNIT = re.compile(r' {8}LUN: (\d+)')
_PATH = re.compile(r' +Backing store path: (\S.*)')


class Tgtd:
    """The targets of hosts on this host's tgtd.

    :param flags: of ``iscsi_target_flags``, how volumes are opened
    """

    #: LUN 0 is tgtd's own.
    FIRST_LUN = 1

    def __init__(self, flags: Optional[str] = None) -> None:
        self._flags = flags or None

    def read(self) -> dict[str, dict[int, str]]:
        """What there is: IQN -> LUN -> path of the volume."""
        found: dict[str, dict[int, str]] = {}
        units: dict[int, str] = {}
        lun = 0
        for line in tgt_control.show_targets().splitlines():
            if match := _TARGET.match(line):
                units = found[match[1]] = {}
            elif match := _UNIT.match(line):
                lun = int(match[1])
            elif lun and (match := _PATH.match(line)):
                units[lun] = match[1]
        return found

    @utils.synchronized('tgt-targets', external=True)
    def add_target(self, iqn: str, initiator: str, user: str,
                   password: str) -> None:
        """Make a target that lets in one initiator, by name and account."""
        tid = 1
        while True:
            try:
                tgt_control.add_target(tid, iqn)
                break
            except tgt_control.TgtdError as error:
                # tgtd says so of a name as well as of a number.
                if (error.number != tgt_control.TARGET_EXISTS or
                        tgt_control.find_target(iqn)):
                    raise
                tid += 1
        try:
            _unless(tgt_control.NO_ACCOUNT, tgt_control.remove_account, user)
            tgt_control.add_account(user, password)
            tgt_control.admit(tid, user, initiator)
        except BaseException:
            # Nobody is let in: it is of no use, and there is none when this
            # is called again.
            tgt_control.remove_target(tid, force=True)
            raise

    def remove_target(self, iqn: str, user: str) -> None:
        """Remove a target that has no units; also one that is not there."""
        tid = tgt_control.find_target(iqn)
        if tid:
            try:
                _patiently(tgt_control.remove_target, tid)
            except tgt_control.TgtdError as error:
                if error.number != tgt_control.TARGET_ACTIVE:
                    raise
                # Who is logged in has nothing there.
                tgt_control.remove_target(tid, force=True)
        _unless(tgt_control.NO_ACCOUNT, tgt_control.remove_account, user)

    def add_lun(self, iqn: str, lun: int, path: str, identity: str) -> None:
        """Show a volume.

        :param identity: the volume's, the same wherever it is found
        :raises TargetGone: tgtd was started anew
        """
        tid = self._tid(iqn)
        try:
            tgt_control.add_unit(tid, lun, path, identity, self._flags)
        except BaseException:
            # It may be there, by the name of tgtd's own making.
            _unless(tgt_control.NO_UNIT, tgt_control.remove_unit, tid, lun)
            raise

    def remove_lun(self, iqn: str, lun: int) -> None:
        """Also one that is not there."""
        tid = tgt_control.find_target(iqn)
        if tid:
            _unless(tgt_control.NO_UNIT, _patiently, tgt_control.remove_unit,
                    tid, lun)

    def resize(self, iqn: str, lun: int, path: str) -> None:
        """:raises TargetGone: tgtd was started anew"""
        tgt_control.resize_unit(self._tid(iqn), lun, path)

    def _tid(self, iqn: str) -> int:
        # Another target may have the number that this one had before.
        tid = tgt_control.find_target(iqn)
        if not tid:
            raise host_targets.TargetGone(iqn)
        return tid


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
