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
"""Neutron without agents: a port is bound at once, to a tap of libvirt's."""

from neutron_lib.api.definitions import portbindings
from neutron_lib import constants
from neutron_lib.plugins.ml2 import api


class AgentlessDriver(api.MechanismDriver):
    """Binds any port on any host; nothing is plugged into anything.

    Guests of the lab need no network; servers with a port must work.
    """

    def initialize(self) -> None:
        pass

    @property
    def connectivity(self) -> str:
        return portbindings.CONNECTIVITY_L2

    def filter_hosts_with_segment_access(
            self, context, segments, candidate_hosts, agent_getter):
        return set(candidate_hosts)

    def bind_port(self, context) -> None:
        context.set_binding(
            context.segments_to_bind[0][api.ID], portbindings.VIF_TYPE_TAP,
            {portbindings.CAP_PORT_FILTER: True},
            status=constants.PORT_STATUS_ACTIVE)
