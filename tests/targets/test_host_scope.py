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
"""Hosts find what is attached to them, and nothing else, whatever happens."""

from collections.abc import Iterable
import concurrent.futures
import contextlib
import itertools
import os
import pathlib
import random
import re
import subprocess
import time
import uuid

import testtools

from blockpath.daemons.standalone_cinder import client
from blockpath.daemons.standalone_cinder import daemon

HOSTS = ('iqn.1994-05.com.example:left', 'iqn.1994-05.com.example:right')
VOLUMES = 200
KILLS = 3
#: Blocks of 512 bytes that are written while a volume is extended.
BLOCKS = 40000
#: Attaches and detaches between two checkpoints.
STEPS = 200
#: A type of designator, and of NAA.
NAA, LOCALLY = '3', 3


def pattern(block: int) -> int:
    return block % 250 + 1


class HostScopeTestCase(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.tgtd = self.enterContext(daemon.Tgtd())

    def serve(self) -> client.Service:
        service = self.enterContext(client.Service(self.tgtd))
        self.addCleanup(lambda: self.addDetail(
            'log', testtools.content.text_content(service.log())))
        return service

    def shown(self) -> dict[str, dict[int, str]]:
        """IQN -> LUN -> path, as tgtd has them."""
        return {target.iqn: target.units for target in
                self.tgtd.client.show()}

    def found(self, told: client.Told, initiator: str) -> list[int]:
        """What REPORT LUNS lists to an initiator, but for tgtd's own."""
        shown = self.libiscsi('iscsi-ls', told, initiator, '-s',
                              f'iscsi://{told["target_portal"]}')
        return sorted(int(lun) for lun in
                      re.findall(r'^Lun:(\d+) .*Type:DIRECT', shown, re.M))

    def identity(self, told: client.Told,
                 initiator: str) -> tuple[str, set[str]]:
        """Serial number and designators of a volume."""
        url = (f'iscsi://{told["target_portal"]}/{told["target_iqn"]}/'
               f'{told["target_lun"]}')
        serial, names = (self.libiscsi('iscsi-inq', told, initiator, '-e',
                                       '1', '-c', page, url)
                         for page in ('128', '131'))
        found = re.findall(r'Type:\((\d)\)[^\n]*\nDesignator:\[(.*?)\]\n'
                           r'(?=DEVICE|$)', names, re.S)
        # tgtd adds one of the target and the LUN, an NAA that is locally
        # assigned: hosts do not tell volumes by it.
        return (re.findall(r'Unit Serial Number:\[ *(.*)\]', serial)[0],
                {name for kind, name in found
                 if kind != NAA or ord(name[0]) >> 4 != LOCALLY})

    def libiscsi(self, program: str, told: client.Told, initiator: str,
                 *args: str) -> str:
        return subprocess.run(
            [program, '-i', initiator, *args], check=True, text=True,
            errors='surrogateescape', stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=60,
            env=os.environ | {
                'LIBISCSI_CHAP_USERNAME': told['auth_username'],
                'LIBISCSI_CHAP_PASSWORD': told['auth_password']}).stdout


class InitiatorTestCase(HostScopeTestCase):
    """What an initiator finds."""

    def setUp(self) -> None:
        super().setUp()
        self.service = self.serve()
        self.volumes = [self.service.call('create') for _ in range(3)]
        first, second, third = self.volumes
        self.told = {(volume, host): self.service.attach(volume, host)[1]
                     for volume, host in (
                         (third, HOSTS[0]), (first, HOSTS[0]),
                         (first, HOSTS[1]), (second, HOSTS[1]))}

    def test_its_own(self) -> None:
        for host in HOSTS:
            told = [each for (_, other), each in self.told.items()
                    if other == host]
            self.assertEqual(sorted(each['target_lun'] for each in told),
                             self.found(told[0], host))

    def test_others_are_refused(self) -> None:
        """The target is another's, by its name and by its account."""
        left, right = (self.told[self.volumes[0], host] for host in HOSTS)
        for told, initiator in ((left, HOSTS[1]),
                                (left | {'auth_password': 'x' * 12}, HOSTS[0]),
                                (left | {'target_iqn': right['target_iqn']},
                                 HOSTS[0])):
            self.assertRaises(subprocess.CalledProcessError, self.identity,
                              told, initiator)

    def test_identity(self) -> None:
        """It is the volume's, on each target."""
        found = {key: self.identity(told, key[1])
                 for key, told in self.told.items()}
        first, second, third = self.volumes
        self.assertEqual(found[first, HOSTS[0]], found[first, HOSTS[1]])
        for volume, host in found:
            serial, names = found[volume, host]
            self.assertEqual(uuid.UUID(volume).hex, serial)
            self.assertEqual(2, len(names))
        for one, other in itertools.combinations(
                (found[first, HOSTS[0]], found[second, HOSTS[1]],
                 found[third, HOSTS[0]]), 2):
            self.assertEqual(set(), one[1] & other[1])

    def test_tgtd_anew(self) -> None:
        """The next attachment brings all back."""
        before = self.shown()
        self.tgtd.stop()
        self.tgtd.start()
        self.assertEqual({}, self.shown())
        attachment, _told = self.service.attach(self.volumes[2], HOSTS[1])
        self.service.call('detach', self.volumes[2], attachment)
        self.assertEqual(before, self.shown())

    def test_extended_under_writes(self) -> None:
        """What a host was told to be written is."""
        volume, host = self.volumes[0], HOSTS[0]
        told = self.told[volume, host]
        self.service.call('extend', volume, '32')
        secret = self.tgtd.folder / 'secret'
        secret.write_text(told['auth_password'])
        writer = subprocess.Popen(
            ['qemu-io', '--cache', 'none', '--object',
             f'secret,id=s,file={secret}', '--image-opts',
             'driver=raw,file.driver=iscsi,file.transport=tcp,'
             f'file.portal={told["target_portal"]},'
             f'file.target={told["target_iqn"]},'
             f'file.lun={told["target_lun"]},file.password-secret=s,'
             f'file.user={told["auth_username"]},'
             f'file.initiator-name={host}'], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        commands = ''.join(
            f'aio_write -q -P {pattern(number)} {number * 512} 512\n' +
            'aio_flush\n' * (number % 512 == 511)
            for number in range(BLOCKS))
        with concurrent.futures.ThreadPoolExecutor() as executor:
            written = executor.submit(writer.communicate, commands, 120)
            larger = 32
            while not written.done():
                larger += 1
                self.service.call('extend', volume, str(larger))
                time.sleep(0.3)
        self.assertNotIn('failed', written.result()[0])
        self.assertGreater(larger, 34)
        data = pathlib.Path(self.service.path(volume)).read_bytes()
        self.assertEqual(
            [], [number for number in range(BLOCKS)
                 if data[number * 512] != pattern(number)])

    def test_switched(self) -> None:
        """What is attached stays; what is attached after that does not."""
        self.service.kill()
        self.service.scope = 'volume'
        before = self.shown()
        self.service.start()
        self.assertEqual(before, self.shown())
        left = self.told[self.volumes[0], HOSTS[0]]
        self.assertEqual(2, len(self.found(left, HOSTS[0])))


class ManyTestCase(HostScopeTestCase):
    """Eight workers, and a service that is killed in the middle."""

    def setUp(self) -> None:
        super().setUp()
        self.random = random.Random(self.id())
        self.service = self.serve()
        self.volumes = [self.service.call('create') for _ in range(VOLUMES)]
        #: volume, host -> attachment and what was told
        self.attached: dict[tuple[str, str], tuple[str, client.Told]] = {}
        #: attachments of which it is not known how they ended
        self.uncertain: list[tuple[str, str, str]] = []

    def test_many(self) -> None:
        pairs = list(itertools.product(self.volumes, HOSTS))
        self.random.shuffle(pairs)
        self.steps(pairs)
        self.check(self.attached)
        for _ in range(KILLS):
            self.steps(self.random.sample(pairs, STEPS), killed=True)
            self.service.start()
            for volume, host, attachment in self.uncertain:
                with contextlib.suppress(client.Gone):
                    self.service.call('detach', volume, attachment)
                self.attached.pop((volume, host), None)
            self.uncertain.clear()
            self.check(self.attached)
            self.steps(self.random.sample(pairs, STEPS))
            self.check(self.attached)
        self.steps(list(self.attached))
        self.assertEqual({}, self.shown())

    def steps(self, pairs: Iterable[tuple[str, str]],
              killed: bool = False) -> None:
        """Attach what is not attached, and detach what is.

        :param killed: the service is, when half of it is done
        """
        pairs = list(pairs)
        running = {}
        for pair in pairs:
            volume, host = pair
            if pair in self.attached:
                attachment = self.attached[pair][0]
                running[pair] = attachment, self.service.ask(
                    'detach', volume, attachment)
            else:
                attachment = self.service.call('reserve', volume)
                running[pair] = attachment, self.service.ask(
                    'attach', volume, attachment, host)
            if killed and len(running) == len(pairs) // 2:
                self.service.kill()
                break
        for pair, (attachment, future) in running.items():
            try:
                told = future.result(client.PATIENCE_S)
            except ConnectionError:
                self.uncertain.append((*pair, attachment))
                continue
            if told:
                self.attached[pair] = attachment, told
            else:
                del self.attached[pair]

    def check(self, attached: dict[tuple[str, str], tuple[str, client.Told]]
              ) -> None:
        """Each volume is where its host was told, and nowhere else."""
        expected = {(told['target_iqn'], told['target_lun'],
                     self.service.path(volume))
                    for (volume, _), (_, told) in attached.items()}
        self.assertEqual(len(attached), len(expected))
        shown = {(iqn, lun, path) for iqn, units in self.shown().items()
                 for lun, path in units.items()}
        self.assertEqual((set(), set()), (expected - shown, shown - expected))
