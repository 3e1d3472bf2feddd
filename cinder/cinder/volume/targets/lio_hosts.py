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
"""LIO's part in targets of hosts: targets, units and accounts."""

from typing import Any

from cinder.privsep.targets import lio_control
from cinder import utils
from cinder.volume.targets import host_targets
from cinder.volume.targets import iscsi_portals

#: rtslib is for one process at a time; LioAdm has the same lock.
_one_at_a_time = utils.synchronized('lioadm', external=True)


class Lio:
    """The targets of hosts in this host's kernel."""

    FIRST_LUN = 0

    def __init__(self, configuration: Any) -> None:
        self._portals = [
            iscsi_portals.split(text, configuration.target_port)
            for text in iscsi_portals.addresses(configuration)]

    def listen(self) -> None:
        """Nothing: each target has its portals."""

    @_one_at_a_time
    def iqns(self) -> set[str]:
        return set(lio_control.iqns())

    @_one_at_a_time
    def read(self) -> dict[str, dict[int, host_targets.Unit]]:
        # A service that was killed may have left devices open.
        lio_control.close()
        return {iqn: {lun: host_targets.Unit(lun, path, identity)
                      for lun, path, identity in units}
                for iqn, units in lio_control.units().items()}

    @_one_at_a_time
    def add_target(self, iqn: str) -> None:
        lio_control.add_target(iqn)

    @_one_at_a_time
    def admit(self, iqn: str, initiator: str, user: str,
              password: str) -> None:
        lio_control.admit(iqn, initiator, user, password, self._portals)

    @_one_at_a_time
    def remove_target(self, iqn: str, user: str) -> None:
        """The account goes with it."""
        if not lio_control.units().get(iqn):
            lio_control.remove_target(iqn)

    @_one_at_a_time
    def add_lun(self, iqn: str, unit: host_targets.Unit) -> None:
        lio_control.add_unit(iqn, unit.lun, unit.path, unit.identity)

    @_one_at_a_time
    def remove_lun(self, iqn: str, lun: int) -> None:
        lio_control.remove_unit(iqn, lun)

    def resize(self, iqn: str, lun: int, path: str) -> None:
        """Nothing: LIO asks the device each time that it is asked."""
