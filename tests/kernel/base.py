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
"""The rig, booted once for all tests, and what they share."""

import atexit
import functools
import os
import time
from typing import Any
import uuid

import testtools

from blockpath import errors
from blockpath.guests.debian import rig
from blockpath.guests.debian import volumes

#: Imported before the first call, while the guests start.
MODULES = {'storage': (volumes.STORAGE, 'tests.kernel.host_scope'),
           'initiator': (volumes.INITIATOR,)}
SIZE_MIB = 64
#: Cinder's volumes have 1 GiB, and a failed test leaves its own.
GROUP_MIB = 8300
#: How much of a volume the tests write and compare.
DATA_MIB = 4
#: Of one login; by open-iscsi's defaults it is tried for eight of these.
LOGIN_S = 5
CHAP = ['volume-user', 'volume-password-12']


@functools.cache
def shared() -> rig.Rig:
    """Up until this process ends."""
    up = rig.Rig(MODULES)
    up.__enter__()
    atexit.register(up.close)
    volumes.start(up, LOGIN_S)
    return up


@functools.cache
def volume_group() -> None:
    """See to it that the storage guest has one for Cinder."""
    shared()['storage'].call('tests.kernel.lvm:prepare', GROUP_MIB)


class RigTestCase(testtools.TestCase):
    """A clean initiator before and after each test."""

    def setUp(self) -> None:
        super().setUp()
        if os.geteuid():
            self.skipTest('the rig needs root')
        self.rig = shared()
        self.initiator = self.rig['initiator']
        self.storage = self.rig['storage']
        self.name = f'v{uuid.uuid4().hex[:12]}'
        self.before = self.leftovers()
        began = len(self.inside('calls'))
        self.addCleanup(self.describe, began, time.monotonic())

    def describe(self, began: int, start: float) -> None:
        """What a report shows: how long, and what os-brick has called."""
        calls = [' '.join(call) for call in self.inside('calls', began)]
        self.detail(seconds=f'{time.monotonic() - start:.1f}',
                    calls='\n'.join(calls))

    def detail(self, **texts: str) -> None:
        for name, text in texts.items():
            self.addDetail(name, testtools.content.text_content(text))

    def inside(self, function: str, *args: Any, **kwargs: Any) -> Any:
        """Call a function of ``initiator.py`` in the initiator."""
        return self.initiator.call(f'{volumes.INITIATOR}:{function}',
                                   *args, **kwargs)

    def outside(self, function: str, *args: Any, **kwargs: Any) -> Any:
        """Call a function of ``storage.py`` in the storage guest."""
        return self.storage.call(f'{volumes.STORAGE}:{function}',
                                 *args, **kwargs)

    def leftovers(self) -> dict[str, list[str]]:
        return self.inside('leftovers')

    def assert_clean(self) -> None:
        """Nothing is on the initiator that was not before the test."""
        self.assertEqual(self.before, self.leftovers())

    def lio(self, networks: int = 1, **options: Any) -> str:
        """A target of LIO on the first networks; returns its IQN."""
        self.addCleanup(self.tidy)
        self.addCleanup(self.outside, 'lio_clear')
        return self.outside(
            'lio_target', self.name, SIZE_MIB,
            list(self.storage.addresses[:networks]), self.initiator.iqn,
            **options)

    def tgt(self, **options: Any) -> str:
        """A target of tgt on all networks; returns its IQN."""
        self.addCleanup(self.tidy)
        self.addCleanup(self.outside, 'tgt_stop')
        self.outside('tgt_start')
        return self.outside('tgt_target', self.name, SIZE_MIB, **options)

    def tidy(self) -> None:
        """Drop what a failed test left, for those that follow."""
        self.initiator.shell(
            'for card in 0 1 2; do ip link set eth$card up; done; '
            'multipath -F || true; iscsiadm -m session -u || true; '
            'rm -rf /etc/iscsi/nodes/* /etc/iscsi/send_targets/*; '
            'ip route flush proto 77; '
            'rm -f /run/rig/hold /run/rig/fail')
        self.outside('hear')

    def hold(self, text: str) -> None:
        """Let the next traced call with this text wait; see ``held``."""
        self.addCleanup(self.initiator.shell, 'rm -f /run/rig/hold')
        self.initiator.shell('rm -f /run/rig/held; '
                             'cat >/run/rig/hold', stdin=f'{text}\n')

    def held(self, seconds: float = 60) -> None:
        """Returns when a call waits."""
        self.wait('held call', seconds, 'test -s /run/rig/held')

    def let_fail(self, text: str) -> None:
        """Let traced calls with this text fail until ``recover``."""
        self.addCleanup(self.recover)
        self.initiator.shell('cat >/run/rig/fail', stdin=f'{text}\n')

    def recover(self) -> None:
        self.initiator.shell('rm -f /run/rig/fail')

    def silence(self, network: int) -> None:
        """Let the portals in a network no longer answer."""
        self.addCleanup(self.outside, 'hear')
        self.outside('drop', network)

    def cross(self) -> None:
        """Let both of the first networks lead to the portals in both."""
        lines = []
        for card in 0, 1:
            address = self.storage.addresses[card]
            through = self.storage.addresses[1 - card]
            lines += [f'ip route add {address} dev eth{card} metric 10 '
                      'proto 77',
                      f'ip route add {address} via {through} '
                      f'dev eth{1 - card} metric 20 proto 77']
        self.initiator.shell('; '.join(lines))

    def sessions(self) -> list[tuple[str, str]]:
        """Address of the portal, and iface, of each session."""
        return sorted(tuple(pair) for pair in self.inside('sessions'))

    def data(self, iqn: str, lun: int, networks: int = 1,
             chap: list[str] | None = None) -> dict[str, Any]:
        """What a driver tells of the volume: ``connection_info['data']``."""
        return volumes.data(self.rig, iqn, lun, networks, chap or ())

    def check_data(self, device: str, backing: str) -> None:
        """What is written to the device is what the storage side has."""
        written = self.inside('fill', device, 1, DATA_MIB)
        self.assertEqual(written, self.inside('digest', device, DATA_MIB))
        self.assertEqual(written, self.outside('digest', backing, DATA_MIB))

    def paths(self, state: str, count: int) -> str:
        """A script: whether so many paths are in a state."""
        return ('test $(/usr/sbin/multipathd show paths raw format "%t" | '
                f'grep -c {state}) = {count}')

    def wait(self, what: str, seconds: float, script: str) -> float:
        """Until a script ends well in the initiator; returns the seconds."""
        start = time.monotonic()
        while self.initiator.agent.start('bash', '-c', script).result().code:
            if time.monotonic() - start > seconds:
                raise errors.BlockpathError(f'no {what} in {seconds:g} s')
            time.sleep(0.5)
        return time.monotonic() - start
