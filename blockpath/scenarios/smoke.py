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
"""Boot a server from a volume, attach another, detach it, delete all."""

from collections.abc import Sequence
import contextlib

from blockpath.cloud import cloud
from blockpath.console import report as reports
from blockpath.machine import wait


EXPECTED = (
    'both volumes are mapped to the server\'s host',
    'both have different LUNs',
    'the detached volume is mapped nowhere',
    'neither volume is left mapped',
    'no secret is left',
    'no domain is left',
    'no initiator has left anything',
)


def expected() -> Sequence[str]:
    return EXPECTED


def run(lab: cloud.Lab, report: reports.Report) -> None:
    with contextlib.ExitStack() as cleanup:
        with report.step('two volumes, one from the guest\'s image'):
            root = lab.volumes.create('smoke-root', bootable=True)
            cleanup.callback(lab.volumes.delete, root)
            data = lab.volumes.create('smoke-data')
            cleanup.callback(lab.volumes.delete, data)
        with report.step('a server booted from one'):
            server = lab.servers.boot('smoke', root, network=True)
            cleanup.callback(lab.servers.delete, server)
        host = lab.servers.host_of(server)
        with report.step('the other attached'):
            lab.servers.attach(server, data)
        found = [lab.volumes.mapping(volume, host) for volume in (root, data)]
        report.check('both volumes are mapped to the server\'s host',
                     all(found))
        report.check('both have different LUNs', found[0] != found[1])
        # Nobody asks the guest to find the disk and to write.
        with report.step('the guest has written to it'):
            wait.until(lambda: lab.holdings.allocated(data),
                       'the guest to write', wait.PATIENCE, wait.POLL)
        with report.step('the other detached'):
            lab.servers.detach(server, data)
        report.check('the detached volume is mapped nowhere', not any(
            lab.volumes.mapping(data, name) for name in lab.hosts.names))
    ours = {root.id, data.id}
    report.check('neither volume is left mapped', not any(
        lab.volumes.mapping(volume, name) for volume in (root, data)
        for name in lab.hosts.names))
    report.check('no secret is left', not any(
        secret.usageID() in ours for name in lab.hosts.names
        for secret in lab.hosts.secrets(name)))
    report.check('no domain is left', not any(
        domain.UUIDString() == server.id for name in lab.hosts.names
        for domain in lab.hosts.hypervisor(name).listAllDomains()))
    report.check('no initiator has left anything', not any(
        lab.hosts.leftovers(name) for name in lab.hosts.names))
