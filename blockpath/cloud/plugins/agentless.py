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

import contextlib
import os
import pathlib
import signal
import subprocess

from neutron_lib.api.definitions import portbindings
from neutron_lib import constants
from neutron_lib.plugins.ml2 import api
from oslo_config import cfg

from blockpath.machine import topology

#: Below Neutron's state_path: a file a port, as dnsmasq reads it.
LEASES = 'dhcp'
#: Where that has its process's number; only there while it runs.
DHCP_PID = 'dhcp.pid'


class AgentlessDriver(api.MechanismDriver):
    """Binds any port on any host, to a tap device of libvirt's.

    The lab joins taps to a bridge by itself, and its DHCP server gives each
    port the address that Neutron has given it.
    """

    def initialize(self) -> None:
        self.state = pathlib.Path(cfg.CONF.state_path)
        (self.state / LEASES).mkdir(exist_ok=True)

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

    def create_port_postcommit(self, context) -> None:
        """Have the port given its addresses, as also when they change."""
        port = context.current
        text = ''.join(f'{port["mac_address"]},{fixed["ip_address"]},2m\n'
                       for fixed in port['fixed_ips'])
        lease = self.state / LEASES / port['id']
        known = lease.exists()
        before = lease.read_text() if known else ''
        if before == text:
            return
        # dnsmasq reads a file as soon as it appears: it must be whole.
        staged = self.state / f'{port["id"]}.lease'
        staged.write_text(text)
        staged.replace(lease)
        if known:
            self._forget(before)

    update_port_postcommit = create_port_postcommit

    def delete_port_postcommit(self, context) -> None:
        lease = self.state / LEASES / context.current['id']
        with contextlib.suppress(FileNotFoundError):
            before = lease.read_text()
            lease.unlink()
            self._forget(before)

    def _forget(self, text: str) -> None:
        """Have dnsmasq forget what it is to: it never does by itself.

        Neither what it read nor to whom it lent an address, which Neutron may
        give to the next port.
        """
        with contextlib.suppress(FileNotFoundError, ProcessLookupError,
                                 ValueError):
            os.kill(int((self.state / DHCP_PID).read_text()), signal.SIGHUP)
            for line in text.splitlines():
                mac, address, _time = line.split(',')
                subprocess.run(['dhcp_release', topology.GUESTS, address, mac],
                               check=True, capture_output=True)
