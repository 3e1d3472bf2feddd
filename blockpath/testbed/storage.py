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
"""Called on the storage host: targets of LIO and tgt, by hand."""

import hashlib
import pathlib
import subprocess
import time
from typing import Any

import rtslib_fb

FOLDER = pathlib.Path('/var/lib/testbed')
PREFIX = 'iqn.2026-01.com.example'
PORT = 3260
#: Marks the routing rules of ``silence``.
PROTOCOL = '77'


def make_file(name: str, mib: int) -> str:
    """Make a sparse file for a volume; return its path."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / name
    with path.open('wb') as file:
        file.truncate(mib << 20)
    return str(path)


def digest(path: str, mib: int) -> str:
    """Return the SHA-256 of the first MiB."""
    with open(path, 'rb') as file:
        return hashlib.sha256(file.read(mib << 20)).hexdigest()


def lio_target(name: str, mib: int, portals: list[str], initiator: str,
               chap: list[str] | None = None, mutual: list[str] | None = None,
               iser: bool = False) -> str:
    """Make a target of LIO with LUN 0; return its IQN.

    :param chap: user and password that the initiator gives.
    :param mutual: user and password that the target gives.
    """
    iqn = f'{PREFIX}:{name}'
    backing = rtslib_fb.FileIOStorageObject(
        name, make_file(name, mib), mib << 20, write_back=True)
    fabric = rtslib_fb.FabricModule('iscsi')
    tpg = rtslib_fb.TPG(rtslib_fb.Target(fabric, iqn), 1)
    tpg.set_attribute('authentication', '1' if chap else '0')
    tpg.set_attribute('generate_node_acls', '0')
    lun = rtslib_fb.LUN(tpg, 0, backing)
    acl = rtslib_fb.NodeACL(tpg, initiator)
    rtslib_fb.MappedLUN(acl, 0, lun)
    if chap:
        acl.chap_userid, acl.chap_password = chap
    if mutual:
        acl.chap_mutual_userid, acl.chap_mutual_password = mutual
    for address in portals:
        portal = rtslib_fb.NetworkPortal(tpg, address, PORT)
        if iser:
            portal.iser = True
    tpg.enable = True
    return iqn


def lio_lun(iqn: str, number: int, name: str, mib: int) -> None:
    """Map another LUN to the target's only initiator."""
    tpg = _tpg(iqn)
    backing = rtslib_fb.FileIOStorageObject(
        name, make_file(name, mib), mib << 20, write_back=True)
    lun = rtslib_fb.LUN(tpg, number, backing)
    [acl] = tpg.node_acls
    rtslib_fb.MappedLUN(acl, number, lun)


def lio_chap(iqn: str, user: str, password: str) -> None:
    """Change the target's CHAP credentials."""
    [acl] = _tpg(iqn).node_acls
    acl.chap_userid, acl.chap_password = user, password


def _tpg(iqn: str) -> rtslib_fb.TPG:
    return rtslib_fb.TPG(
        rtslib_fb.Target(rtslib_fb.FabricModule('iscsi'), iqn), 1)


def silence(address: str) -> None:
    """Stop answering from an address of the host, but not its first."""
    subprocess.run(['ip', 'rule', 'add', 'from', address, 'blackhole',
                    'protocol', PROTOCOL], check=True)


def answer() -> None:
    """Answer from all addresses again."""
    subprocess.run(['ip', 'rule', 'flush', 'protocol', PROTOCOL], check=True)


def lio_clear() -> None:
    rtslib_fb.RTSRoot().clear_existing(confirm=True)


def tgt_start() -> None:
    subprocess.run(['tgtd'], check=True, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(100):
        if not _tgtadm('sys', 'show', check=False).returncode:
            return
        time.sleep(0.1)
    raise RuntimeError('tgtd did not start')


def tgt_stop() -> None:
    """Kill tgtd, even with initiators logged in."""
    kill = ['pkill', '-KILL', '--exact', 'tgtd']
    while subprocess.run(kill).returncode == 0:
        time.sleep(0.1)


def tgt_target(name: str, mib: int, chap: list[str] | None = None,
               tid: int = 1) -> str:
    """Make a target of tgt with LUN 1 on all addresses; return its IQN."""
    iqn = f'{PREFIX}:{name}'
    which = ('--tid', str(tid))
    _tgtadm('target', 'new', *which, '-T', iqn)
    _tgtadm('logicalunit', 'new', *which, '--lun', '1', '-b',
            make_file(name, mib))
    _tgtadm('target', 'bind', *which, '-I', 'ALL')
    if chap:
        user, password = chap
        _tgtadm('account', 'new', '--user', user, '--password', password)
        _tgtadm('account', 'bind', *which, '--user', user)
    return iqn


def _tgtadm(mode: str, operation: str, *rest: str,
            check: bool = True) -> Any:
    return subprocess.run(
        ['tgtadm', '--lld', 'iscsi', '--mode', mode, '--op', operation,
         *rest], check=check, capture_output=True)
