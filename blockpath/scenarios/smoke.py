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

import contextlib

from blockpath.cloud import cloud
from blockpath.console import report as reports
from blockpath.machine import wait


def run(lab: cloud.Lab, report: reports.Report) -> None:
    with contextlib.ExitStack() as cleanup:
        with report.step('two volumes, one from the guest\'s image'):
            root = lab.create_volume('smoke-root', bootable=True)
            cleanup.callback(lab.delete_volume, root)
            data = lab.create_volume('smoke-data')
            cleanup.callback(lab.delete_volume, data)
        with report.step('a server booted from one'):
            server = lab.boot('smoke', root, network=True)
            cleanup.callback(lab.delete_server, server)
        host = lab.host_of(server)
        with report.step('the other attached'):
            lab.attach(server, data)
        report.check('both volumes are mapped to the server\'s host',
                     lab.lun(root, host) and lab.lun(data, host))
        report.check('both are known by different LUNs',
                     lab.lun(root, host) != lab.lun(data, host))
        # The guest finds the disk, and writes, by itself.
        with report.step('the guest has written to it'):
            wait.until(lambda: lab.backing_file(data).stat().st_blocks,
                       'the guest to write', cloud.PATIENCE, cloud.POLL)
        with report.step('the other detached'):
            lab.detach(server, data)
        report.check('it is mapped nowhere', not any(
            lab.lun(data, name) for name in lab.hosts))
    ours = {root.id, data.id}
    report.check('neither is left mapped', not any(
        lab.lun(volume, name) for volume in (root, data)
        for name in lab.hosts))
    report.check('no secret is left', not any(
        secret.usageID() in ours for name in lab.hosts
        for secret in lab.secrets(name)))
    report.check('no domain is left', not any(
        domain.UUIDString() == server.id for name in lab.hosts
        for domain in lab.hypervisor(name).listAllDomains()))
    report.check('no SCSI device ever', not lab.scsi_devices())
