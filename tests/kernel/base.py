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
"""The testbed, booted once for all tests, and what they share."""

import atexit
from collections.abc import Callable
import functools
import os
import time
from typing import Any
import uuid

import testtools

from blockpath import errors
from blockpath.guests.debian import rig
from blockpath.testbed import testbed
from blockpath.testbed import volumes

#: Imported before the first call, while the hosts start.
MODULES = {'storage': (volumes.STORAGE, 'tests.kernel.host_scope'),
           'initiator': (volumes.INITIATOR,)}
SIZE_MIB = 64
#: Of each session: what cannot succeed ends the sooner.
LOGINS = 2
#: How much of a volume the tests write and compare.
DATA_MIB = 4
CHAP = ['volume-user', 'volume-password-12']


@functools.cache
def kernels() -> testbed.Testbed:
    """Return hosts that are user-mode Linux, up until this process ends."""
    return _last(testbed.Testbed(MODULES, logins=LOGINS))


@functools.cache
def guests() -> rig.Rig:
    """Return emulated hosts, up until this process ends."""
    return _last(rig.Rig({'storage': (volumes.STORAGE,),
                          'initiator': (volumes.INITIATOR,)}))


def _last(hosts: Any) -> Any:
    hosts.__enter__()
    atexit.register(hosts.close)
    return hosts


@functools.cache
def volume_group() -> None:
    """Make a volume group for Cinder on the storage host, once."""
    kernels()['storage'].call('tests.kernel.lvm:prepare', testbed.DISK)


class KernelTestCase(testtools.TestCase):
    """Check that a test leaves the initiator clean.

    :cvar hosts: returns the hosts, by name
    """

    hosts: Callable[[], Any] = staticmethod(kernels)

    def setUp(self) -> None:
        super().setUp()
        if os.geteuid():
            self.skipTest('hosts with kernels need root')
        self.initiator = self.hosts()['initiator']
        self.storage = self.hosts()['storage']
        self.name = f'v{uuid.uuid4().hex[:12]}'
        self.before = self.leftovers()
        began = len(self.inside('calls'))
        self.addCleanup(self.describe, began, time.monotonic())

    def describe(self, began: int, start: float) -> None:
        """Attach the duration and os-brick's calls to the report."""
        calls = [' '.join(call) for call in self.inside('calls', began)]
        self.detail(seconds=f'{time.monotonic() - start:.1f}',
                    calls='\n'.join(calls))

    def detail(self, **texts: str) -> None:
        for name, text in texts.items():
            self.addDetail(name, testtools.content.text_content(text))

    def inside(self, function: str, *args: Any, **kwargs: Any) -> Any:
        """Call a function of ``initiator.py`` on the initiator."""
        return self.initiator.call(f'{volumes.INITIATOR}:{function}',
                                   *args, **kwargs)

    def outside(self, function: str, *args: Any, **kwargs: Any) -> Any:
        """Call a function of ``storage.py`` on the storage host."""
        return self.storage.call(f'{volumes.STORAGE}:{function}',
                                 *args, **kwargs)

    def leftovers(self) -> dict[str, list[str]]:
        return self.inside('leftovers')

    def assert_clean(self) -> None:
        """Check that the test left nothing on the initiator."""
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
            'multipath -F || true; iscsiadm -m session -u || true; '
            'rm -rf /etc/iscsi/nodes/* /etc/iscsi/send_targets/*; '
            'ip route flush proto 77; '
            'rm -f /run/testbed/hold /run/testbed/fail')
        self.outside('answer')

    def hold(self, text: str) -> None:
        """Let the next traced call with this text wait; see ``held``."""
        self.addCleanup(self.initiator.shell, 'rm -f /run/testbed/hold')
        self.initiator.shell('rm -f /run/testbed/held; '
                             'cat >/run/testbed/hold', stdin=f'{text}\n')

    def held(self, seconds: float = 60) -> None:
        """Wait until a traced call is held."""
        self.wait('held call', seconds, 'test -s /run/testbed/held')

    def let_fail(self, text: str) -> None:
        """Let traced calls with this text fail until ``recover``."""
        self.addCleanup(self.recover)
        self.initiator.shell('cat >/run/testbed/fail', stdin=f'{text}\n')

    def recover(self) -> None:
        self.initiator.shell('rm -f /run/testbed/fail')

    def silence(self, network: int) -> None:
        """Let the portals in a network no longer answer."""
        self.addCleanup(self.outside, 'answer')
        self.outside('silence', self.storage.addresses[network])

    def cross(self) -> None:
        """Let both of the first networks lead to the portals in both."""
        lines = []
        for card in 0, 1:
            address = self.storage.addresses[card]
            through = self.storage.addresses[1 - card]
            lines += [f'ip route add {address} dev vec{card} metric 10 '
                      'proto 77',
                      f'ip route add {address} via {through} '
                      f'dev vec{1 - card} metric 20 proto 77']
        self.initiator.shell('; '.join(lines))

    def sessions(self) -> list[tuple[str, str]]:
        """Address of the portal, and iface, of each session."""
        return sorted(tuple(pair) for pair in self.inside('sessions'))

    def data(self, iqn: str, lun: int, networks: int = 1,
             chap: list[str] | None = None) -> dict[str, Any]:
        """Return what a driver answers: ``connection_info['data']``."""
        return volumes.data(self.storage.addresses[:networks], iqn, lun,
                            chap or ())

    def check_data(self, device: str, backing: str) -> None:
        """Write to the device and compare it with the backing file."""
        written = self.inside('fill', device, 1, DATA_MIB)
        self.assertEqual(written, self.inside('digest', device, DATA_MIB))
        self.assertEqual(written, self.outside('digest', backing, DATA_MIB))

    def paths(self, state: str, count: int) -> str:
        """Return a script that succeeds if ``count`` paths have a state."""
        return ('test $(/usr/sbin/multipathd show paths raw format "%t" | '
                f'grep -c {state}) = {count}')

    def wait(self, what: str, seconds: float, script: str) -> float:
        """Wait for a script to succeed on the initiator; return seconds."""
        start = time.monotonic()
        while self.initiator.result('sh', '-c', script).code:
            if time.monotonic() - start > seconds:
                raise errors.BlockpathError(f'no {what} in {seconds:g} s')
            time.sleep(0.5)
        return time.monotonic() - start
