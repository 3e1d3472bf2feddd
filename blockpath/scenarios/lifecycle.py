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
"""Reboot, detach and attach a server, and change Nova's configuration.

On one host: first with the host's initiator, then with QEMU's.
"""

from collections.abc import Callable
import contextlib
import time
from typing import Any

from blockpath.cloud import cloud
from blockpath.cloud import lab_servers
from blockpath.console import report as reports
from blockpath.machine import topology
from blockpath.machine import wait
from blockpath.scenarios import _guest

PLACE = _guest.FIRST
SERVICE = f'nova-compute-{PLACE}'
OPTION = 'iscsi_initiator'
#: Where Debian has QEMU's iSCSI block driver.
_BLOCK_DRIVER = '/usr/lib/x86_64-linux-gnu/qemu/block-iscsi.so'
#: Seconds after which nova-compute has given up, on a busy machine.
_GIVE_UP = 60

#: Part of Nova's reason for not attaching a volume by a portal that hangs.
REASONS = {_guest.HOST: '', _guest.QEMU: 'no answer'}
REBOOTS = {'SOFT': 'soft reboot', 'HARD': 'hard reboot'}
RESTART = 'stop and start'
REATTACH = 'detach and attach'
HUNG = 'attaching by a portal that hangs'
NO_DRIVER = ('without QEMU\'s iSCSI block driver nova-compute gives up and '
             'names the package')


def expected() -> list[str]:
    return [*checks(_guest.HOST), *checks(_guest.QEMU), NO_DRIVER]


def checks(initiator: str) -> list[str]:
    """Name the checks of a server with one of the initiators."""
    names = []
    for title in (*REBOOTS.values(), RESTART, REATTACH):
        names += [f'{title}: the guest writes on',
                  f'{title}: its volumes are connected']
    names += [
        *(f'{title}: the guest boots again' for title in REBOOTS.values()),
        'detached: the volume is disconnected',
        f'{HUNG}: Nova refuses it',
        f'{HUNG}: the guest does not notice',
        f'{HUNG}: nothing is left of it',
        'option changed: the detach finds the initiator of the attach',
        'option changed: a volume type has its own initiator',
        'deleted: no secret, device or mapping is left']
    return [f'{_guest.INITIATORS[initiator]}: {name}' for name in names]


def run(lab: cloud.Lab, report: reports.Report) -> None:
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(lab.hosts.set_initiators, {PLACE: _guest.HOST})
        for initiator, name in _guest.INITIATORS.items():
            with report.act(f'initiator: {name}', checks(initiator)):
                _play(lab, report, initiator)
        # QEMU's is still the one of the host.
        _no_block_driver(lab, report)


def _play(lab: cloud.Lab, report: reports.Report, initiator: str) -> None:
    with report.step(f'initiator of {PLACE}: {initiator}'):
        lab.hosts.set_initiators({PLACE: initiator})
    with contextlib.ExitStack() as cleanup:
        life = Life(lab, report, cleanup, initiator)
        life.reboots()
        life.reattach()
        life.hung_portal()
        life.changed_option()
    life.check('deleted: no secret, device or mapping is left', not any(
        lab.storage.luns(host) or lab.hosts.secrets(host) or
        lab.hosts.leftovers(host) for host in lab.hosts.names))


class Life:
    """A server with a volume that it writes to, and a spare volume.

    The spare volume has a target of its own: who attaches it has to log in.
    """

    def __init__(self, lab: cloud.Lab, report: reports.Report,
                 cleanup: contextlib.ExitStack, initiator: str) -> None:
        self.lab = lab
        self.report = report
        self.initiator = initiator
        kind = _type_for(lab, cleanup, initiator)
        with report.step('a server that writes to a volume'):
            self.root = self._create(cleanup, 'root', bootable=True)
            self.data = self._create(cleanup, 'data')
            self.spare = self._create(cleanup, 'spare', volume_type=kind)
            self.server = lab.servers.boot('life', self.root, PLACE)
            cleanup.callback(lab.servers.delete, self.server)
            lab.servers.attach(self.server, self.data)
        self.watcher = cleanup.enter_context(lab.holdings.watch(self.data))
        self.watcher.wait(_guest.SIGN_OF_LIFE, wait.PATIENCE)

    def _create(self, cleanup: contextlib.ExitStack, name: str,
                **attributes: Any) -> Any:
        volume = self.lab.volumes.create(f'life-{name}', **attributes)
        cleanup.callback(self.lab.volumes.delete, volume)
        return volume

    def check(self, name: str, passed: object, figure: str = '') -> None:
        """Make one of the initiator's checks."""
        title = _guest.INITIATORS[self.initiator]
        self.report.check(f'{title}: {name}', passed, figure)

    def _are_connected(self, *volumes: Any) -> bool:
        """Return whether the host has what these volumes need, and no more.

        That is a secret of each for QEMU, or devices and sessions.
        """
        mappings = [self.lab.volumes.mapping(volume, PLACE)
                    for volume in volumes]
        secrets = {secret.usageID()
                   for secret in self.lab.hosts.secrets(PLACE)}
        found = {kind: len(names) for kind, names in
                 self.lab.hosts.leftovers(PLACE).items()}
        if self.initiator == _guest.QEMU:
            return (all(mappings) and not found and
                    secrets == {volume.id for volume in volumes})
        paths = len(topology.NETWORKS)
        sessions = paths * len({mapping[0] for mapping in mappings
                                if mapping})
        return all(mappings) and not secrets and found == {
            'session': sessions, 'node record': sessions,
            'SCSI device': paths * len(volumes),
            'multipath map': len(volumes)}

    def _writes_on(self, title: str, act: Callable[[], object]) -> None:
        with self.report.step(title):
            act()
            self.lab.servers.wait_for(self.server, 'ACTIVE')
            self.watcher.wait(_guest.SIGN_OF_LIFE, wait.PATIENCE)
        result = self.watcher.result()
        self.check(f'{title}: the guest writes on',
                   result.ok and not result.io_errors, str(result))
        self.check(f'{title}: its volumes are connected',
                   self._are_connected(self.root, self.data))

    def reboots(self) -> None:
        compute = self.lab.cloud.compute
        for kind, title in REBOOTS.items():
            runs = len(self.watcher.result().runs)
            self._writes_on(
                title, lambda: compute.reboot_server(self.server.id, kind))
            self.check(f'{title}: the guest boots again',
                       len(self.watcher.result().runs) == runs + 1)
        self._writes_on(RESTART, self._stop_and_start)

    def _stop_and_start(self) -> None:
        self.lab.cloud.compute.stop_server(self.server.id)
        self.lab.servers.wait_for(self.server, 'SHUTOFF')
        self.lab.cloud.compute.start_server(self.server.id)

    def reattach(self) -> None:
        """Detach and attach: the guest finds its earlier records."""
        self._writes_on(REATTACH, self._detach_and_attach)

    def _detach_and_attach(self) -> None:
        self.lab.servers.detach(self.server, self.data)
        self.check('detached: the volume is disconnected',
                   self._are_connected(self.root) and
                   self.lab.volumes.mapping(self.data, PLACE) is None)
        self.lab.servers.attach(self.server, self.data)

    def hung_portal(self) -> None:
        """Attach by a portal that hangs: QEMU alone would freeze the guest."""
        began = time.monotonic()
        with (self.report.step(HUNG),
              self.lab.storage.hung_portals() as portals,
              self.lab.volumes.reached_by(self.spare, portals)):
            refused = self._refused()
        stall = self.watcher.longest_stall(began).seconds
        self.check(f'{HUNG}: Nova refuses it', refused, refused)
        self.check(f'{HUNG}: the guest does not notice',
                   _guest.unnoticed(stall, rest=0.0),
                   f'writes stalled {stall * 1000:.0f} ms')
        self.check(f'{HUNG}: nothing is left of it',
                   self._are_connected(self.root, self.data) and
                   self.lab.volumes.mapping(self.spare, PLACE) is None)

    def _refused(self) -> str:
        """Try to attach the spare volume; return Nova's reason."""
        self.lab.cloud.compute.create_volume_attachment(
            self.server.id, volume_id=self.spare.id)
        self.lab.volumes.wait_for(self.spare, 'available')

        def reason() -> str:
            fault = self.lab.servers.fault(self.server)
            given = fault != lab_servers.NO_REASON
            return fault if given and REASONS[self.initiator] in fault else ''

        return wait.until(reason, 'Nova to give its reason', wait.PATIENCE,
                          wait.POLL)

    def changed_option(self) -> None:
        """Change the option while a volume is connected."""
        [other] = _guest.INITIATORS.keys() - {self.initiator}
        with self.report.step(f'nova-compute with {OPTION} = {other}'):
            self.lab.hosts.set_initiators({PLACE: other})
        with self.report.step('detach, with the option changed'):
            self.lab.servers.detach(self.server, self.data)
        self.check(
            'option changed: the detach finds the initiator of the attach',
            self._are_connected(self.root) and
            self.lab.volumes.mapping(self.data, PLACE) is None)
        with self.report.step(f'attach of a type for {self.initiator}'):
            self.lab.servers.attach(self.server, self.spare)
        self.check('option changed: a volume type has its own initiator',
                   self._are_connected(self.root, self.spare))
        self.lab.servers.detach(self.server, self.spare)
        with self.report.step(f'nova-compute with {OPTION} = '
                              f'{self.initiator}'):
            self.lab.hosts.set_initiators({PLACE: self.initiator})


def _type_for(lab: cloud.Lab, cleanup: contextlib.ExitStack,
              initiator: str) -> str:
    """Create a volume type whose front-end QoS specs ask for an initiator.

    Each of its volumes has a target of its own.
    """
    storage: Any = lab.cloud.block_storage
    made = storage.create_type(name=f'by-{initiator}', extra_specs={
        'volume_backend_name': topology.LVM_BY_VOLUME})
    cleanup.callback(storage.delete_type, made)
    answer = storage.post('/qos-specs', json={'qos_specs': {
        'name': f'by-{initiator}', 'consumer': 'front-end',
        OPTION: initiator}})
    qos = answer.json()['qos_specs']['id']
    cleanup.callback(storage.delete, f'/qos-specs/{qos}?force=True')
    storage.get(f'/qos-specs/{qos}/associate?vol_type_id={made.id}')
    return made.id


def _no_block_driver(lab: cloud.Lab, report: reports.Report) -> None:
    """Check that nova-compute does not start where QEMU cannot log in.

    nova-compute gives up, but its threads keep the process alive. The script
    ends at the reason, and its namespace of processes ends nova-compute.
    """
    script = (f'mount --bind /dev/null {_BLOCK_DRIVER} && '
              f'sed "/CRITICAL.*qemu-block-extra/q" < <(timeout {_GIVE_UP} '
              'nova-compute --config-file '
              f'{lab.site.etc / PLACE / "nova.conf"} 2>&1)')
    with report.step('nova-compute without QEMU\'s iSCSI block driver'):
        lab.daemons.stop(SERVICE)
        try:
            done = lab.hosts.run_in(
                PLACE, ['unshare', '--pid', '--fork', '--mount-proc', 'bash',
                        '-c', script], timeout=wait.PATIENCE)
        finally:
            lab.hosts.restart(SERVICE)
    said = [line for line in done.stdout.splitlines()
            if 'CRITICAL' in line and 'qemu-block-extra' in line]
    report.check(NO_DRIVER, said,
                 said[0].partition('Unhandled error: ')[2] if said else '')
