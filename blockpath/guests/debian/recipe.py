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
"""What the guests' image is made of."""

import hashlib
import pathlib

SUITE = 'bookworm'
#: Python of that suite; packages made for another do not load in a guest.
PYTHON = (3, 11)
KERNEL = 'linux-image-amd64'
PACKAGES = (
    'dbus', 'ibverbs-providers', 'ibverbs-utils', 'iproute2', 'iputils-ping',
    'kmod', 'lsscsi', 'multipath-tools', 'open-iscsi', 'procps', 'python3',
    'rdma-core', 'sg3-utils', 'sudo', 'systemd-sysv', 'targetcli-fb', 'udev')
#: Loaded to reach the root file system, with what they depend on.
BOOT_MODULES = ('virtio_pci', 'virtio_blk', 'ext4')
#: Folders of drivers that no guest has the hardware for.
DRIVERS = frozenset((
    'block', 'char', 'connector', 'dax', 'dma', 'hid', 'infiniband', 'input',
    'md', 'net', 'nvdimm', 'nvme', 'parport', 'pci', 'ptp', 'scsi', 'target',
    'vhost', 'virtio'))
#: Neither wanted at boot nor when a package's program asks for them.
MASKED = (
    'apt-daily.timer', 'apt-daily-upgrade.timer', 'dpkg-db-backup.timer',
    'e2scrub_reap.service', 'fstrim.timer', 'getty@tty1.service',
    'rdma-ndd.service',
    'rtslib-fb-targetctl.service', 'serial-getty@ttyS0.service',
    'systemd-networkd.service', 'systemd-random-seed.service',
    'systemd-resolved.service', 'systemd-timesyncd.service',
    'systemd-update-utmp.service')
IMAGE_BYTES = 2 << 30

FILES = pathlib.Path(__file__).parent / 'files'
#: File -> where it goes, and its mode.
INSTALLED = {
    'agent.py': ('usr/local/lib/rig/agent.py', 0o644),
    'agent.service': ('etc/systemd/system/rig-agent.service', 0o644),
    'iscsid.conf': ('etc/iscsi/iscsid.conf', 0o600),
    'multipath.conf': ('etc/multipath.conf', 0o644),
    'python.sh': ('usr/local/bin/tree-python', 0o755),
    'rig.target': ('etc/systemd/system/rig.target', 0o644),
    'sitecustomize.py': ('usr/local/lib/rig/python/sitecustomize.py', 0o644),
}


def digest(mirror: str) -> str:
    """Names the image: equal for equal recipes."""
    hasher = hashlib.sha256(mirror.encode())
    own = pathlib.Path(__file__)
    for path in (own, own.with_name('image.py'), FILES / 'init.sh',
                 *(FILES / name for name in INSTALLED)):
        hasher.update(path.name.encode() + b'\0' + path.read_bytes())
    return hasher.hexdigest()[:16]
