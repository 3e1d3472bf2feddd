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
"""Reboots, faults and changed minds: the rest of a volume's life.

One server on one host, whose volumes QEMU reaches by itself.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import time
from typing import Any

from blockpath.cloud import cloud
from blockpath.console import report as reports
from blockpath.machine import wait
from blockpath.observe import write_watcher
from blockpath.scenarios import demo

HOST = 'cmp1'
SERVICE = f'nova-compute-{HOST}'
OPTION = 'iscsi_initiator'
#: Where Debian has QEMU's iSCSI block driver.
_BLOCK_DRIVER = '/usr/lib/x86_64-linux-gnu/qemu/block-iscsi.so'


REBOOTS = {'SOFT': 'soft reboot', 'HARD': 'hard reboot'}
RESTART = 'stop and start'
REATTACH = 'detach and attach'
HUNG = 'attaching by a portal that hangs'


def expected() -> list[str]:
    names = []
    for title in (*REBOOTS.values(), RESTART, REATTACH):
        names += [f'{title}: the guest writes on',
                  f'{title}: its secret is there']
    return names + [
        *(f'{title}: the guest boots again' for title in REBOOTS.values()),
        'detached: its secret is gone',
        f'{HUNG}: Nova refuses it',
        f'{HUNG}: the guest does not notice',
        f'{HUNG}: nothing is left of it',
        'with the option changed, the detach finds QEMU\'s initiator',
        'a volume type has QEMU\'s initiator whatever the option',
        'deleted: no secret or mapping is left',
        'without QEMU\'s iSCSI block driver nova-compute gives up and names '
        'the package']


def run(lab: cloud.Lab, report: reports.Report) -> None:
    with contextlib.ExitStack() as cleanup:
        life = Life(lab, report, cleanup)
        life.reboots()
        life.again()
        life.hung_portal()
        life.changed_option()
    report.check('deleted: no secret or mapping is left', not any(
        lab.storage.luns(host) or lab.hosts.secrets(host)
        for host in lab.hosts.names))
    _no_block_driver(lab, report)


class Life:
    """A server with a volume that it writes to, and a spare volume."""

    def __init__(self, lab: cloud.Lab, report: reports.Report,
                 cleanup: contextlib.ExitStack) -> None:
        self.lab = lab
        self.report = report
        self.kind = _type_for_qemu(lab, cleanup)
        with report.step('a server that writes to a volume'):
            root = lab.volumes.create('life-root', bootable=True)
            cleanup.callback(lab.volumes.delete, root)
            self.data = lab.volumes.create('life-data')
            cleanup.callback(lab.volumes.delete, self.data)
            self.spare = lab.volumes.create('life-spare',
                                            volume_type=self.kind)
            cleanup.callback(lab.volumes.delete, self.spare)
            self.server = lab.servers.boot('life', root, HOST)
            cleanup.callback(lab.servers.delete, self.server)
            lab.servers.attach(self.server, self.data)
        self.watcher = cleanup.enter_context(
            write_watcher.Watcher(lab.holdings.file(self.data)))
        self.watcher.wait(100, wait.PATIENCE)

    def _writes_on(self, title: str, act: Callable[[], object]) -> None:
        with self.report.step(title):
            act()
            self.lab.servers.wait_for(self.server, 'ACTIVE')
            self.watcher.wait(100, wait.PATIENCE)
        result = self.watcher.result()
        self.report.check(f'{title}: the guest writes on',
                          result.ok and not result.io_errors, str(result))
        self.report.check(f'{title}: its secret is there',
                          self.data.id in self._secrets())

    def _secrets(self) -> set[str]:
        return {secret.usageID() for secret in self.lab.hosts.secrets(HOST)}

    def reboots(self) -> None:
        compute = self.lab.cloud.compute
        for kind, title in REBOOTS.items():
            runs = len(self.watcher.result().runs)
            self._writes_on(
                title, lambda: compute.reboot_server(self.server.id, kind))
            self.report.check(f'{title}: the guest boots again',
                              len(self.watcher.result().runs) == runs + 1)
        self._writes_on(RESTART, self._stop_and_start)

    def _stop_and_start(self) -> None:
        self.lab.cloud.compute.stop_server(self.server.id)
        self.lab.servers.wait_for(self.server, 'SHUTOFF')
        self.lab.cloud.compute.start_server(self.server.id)

    def again(self) -> None:
        """Detached and attached, the guest finds what it had written."""
        self._writes_on(REATTACH, self._detach_and_attach)

    def _detach_and_attach(self) -> None:
        self.lab.servers.detach(self.server, self.data)
        self.report.check('detached: its secret is gone',
                          self.data.id not in self._secrets())
        self.lab.servers.attach(self.server, self.data)

    def hung_portal(self) -> None:
        """QEMU, told of such a portal, would freeze the guest."""
        began = time.monotonic()
        with (self.report.step(HUNG),
              self.lab.storage.hung_portal(HOST)):
            refused = self._refused()
        stall = self.watcher.longest_stall(began).seconds
        self.report.check(f'{HUNG}: Nova refuses it', refused, refused)
        self.report.check(f'{HUNG}: the guest does not notice',
                          demo.unnoticed(stall, rest=0.0),
                          f'writes stood still {stall * 1000:.0f} ms at most')
        self.report.check(
            f'{HUNG}: nothing is left of it',
            self.spare.id not in self._secrets() and
            self.lab.volumes.lun(self.spare, HOST) is None)

    def _refused(self) -> str:
        """Nova's reason for not attaching the spare volume."""
        self.lab.cloud.compute.create_volume_attachment(
            self.server.id, volume_id=self.spare.id)
        self.lab.volumes.wait_for(self.spare, 'available')
        wait.until(lambda: 'no answer' in self.lab.servers.fault(self.server),
                   'Nova to give its reason', wait.PATIENCE, wait.POLL)
        return self.lab.servers.fault(self.server)

    def changed_option(self) -> None:
        """The option is changed while a volume is connected."""
        with self._option('host'):
            with self.report.step('detach, with the option changed to host'):
                self.lab.servers.detach(self.server, self.data)
            self.report.check(
                'with the option changed, the detach finds QEMU\'s '
                'initiator', self.data.id not in self._secrets() and
                self.lab.volumes.lun(self.data, HOST) is None)
            with self.report.step('attach of a type that asks for qemu'):
                self.lab.servers.attach(self.server, self.spare)
            self.report.check(
                'a volume type has QEMU\'s initiator whatever the option',
                self.spare.id in self._secrets())
            self.lab.servers.detach(self.server, self.spare)

    @contextlib.contextmanager
    def _option(self, value: str) -> Iterator[None]:
        path = self.lab.site.etc / HOST / 'nova.conf'
        before = path.read_text()
        path.write_text(before.replace(f'{OPTION} = qemu',
                                       f'{OPTION} = {value}'))
        try:
            with self.report.step(f'nova-compute with {OPTION} = {value}'):
                self.lab.hosts.restart(SERVICE)
            yield
        finally:
            path.write_text(before)
            self.lab.hosts.restart(SERVICE)


def _type_for_qemu(lab: cloud.Lab, cleanup: contextlib.ExitStack) -> str:
    """A volume type whose front-end QoS specs ask for QEMU's initiator."""
    storage: Any = lab.cloud.block_storage
    base = storage.find_type('files', ignore_missing=False)
    made = storage.create_type(name='files-by-qemu',
                               extra_specs=dict(base.extra_specs))
    cleanup.callback(storage.delete_type, made)
    answer = storage.post('/qos-specs', json={'qos_specs': {
        'name': 'by-qemu', 'consumer': 'front-end', OPTION: 'qemu'}})
    qos = answer.json()['qos_specs']['id']
    cleanup.callback(storage.delete, f'/qos-specs/{qos}?force=True')
    storage.get(f'/qos-specs/{qos}/associate?vol_type_id={made.id}')
    return made.id


def _no_block_driver(lab: cloud.Lab, report: reports.Report) -> None:
    """nova-compute does not start where QEMU can not log in.

    It gives up, but its threads keep the process: so it is ended.
    """
    script = (f'mount --bind /dev/null {_BLOCK_DRIVER} && exec timeout 15 '
              f'{lab.site.bin("nova-compute")} --config-file '
              f'{lab.site.etc / HOST / "nova.conf"}')
    with report.step('nova-compute without QEMU\'s iSCSI block driver'):
        lab.daemons.stop(SERVICE)
        try:
            done = lab.hosts.run_in(HOST, ['unshare', '--mount', 'sh', '-c',
                                           script], timeout=wait.PATIENCE)
        finally:
            lab.hosts.restart(SERVICE)
    said = [line for line in (done.stdout + done.stderr).splitlines()
            if 'CRITICAL' in line and 'qemu-block-extra' in line]
    report.check('without QEMU\'s iSCSI block driver nova-compute gives up '
                 'and names the package', said,
                 said[0].partition('Unhandled error: ')[2] if said else '')
