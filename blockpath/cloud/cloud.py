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
"""A running lab, for scenarios: its cloud, its hosts, its parts."""

from blockpath.cloud import fault_injection
from blockpath.cloud import lab_hosts
from blockpath.cloud import lab_servers
from blockpath.cloud import lab_volumes
from blockpath.cloud import lifecycle
from blockpath.cloud import seed
from blockpath.cloud import services
from blockpath.machine import credentials
from blockpath.machine import errors
from blockpath.machine import namespaces
from blockpath.machine import topology
from blockpath.observe import volume_content


class Lab:
    """A lab that is up.

    :raises LabError: the lab is not up
    """

    def __init__(self, site: topology.Site | None = None) -> None:
        self.site = site or topology.Site()
        if lifecycle.find(self.site) is not lifecycle.State.UP:
            raise errors.LabError(
                'the lab is not up; start it with: blockpath lab up')
        self.daemons = services.Daemons(self.site)
        self.passwords = credentials.Passwords.load(
            self.site.state / 'passwords.json')
        self.storage = fault_injection.Storage(self.daemons)
        #: The bytes of the volumes, read without Cinder.
        self.holdings = volume_content.Holdings(
            self.site, self.daemons.ceph, self.storage.shell,
            self.passwords.volumes)
        #: The APIs, as administrator. See :meth:`enter`.
        self.cloud = seed.connect(self.site)
        self.hosts = lab_hosts.Hosts(self.daemons)
        self.volumes = lab_volumes.Volumes(self.cloud, self.site, self.storage,
                                           self.holdings)
        self.servers = lab_servers.Servers(self.cloud, self.site, self.hosts,
                                           self.volumes)

    def enter(self) -> None:
        """Move this thread, and those it starts, to the control host.

        The APIs are reachable from there only. The files stay the same.
        """
        namespaces.enter(self.site.netns(topology.CONTROL.name))
