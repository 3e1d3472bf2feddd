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
"""The guest's kernel: Debian's own for clouds, unpacked, never installed."""

import dataclasses
import pathlib

from blockpath import errors
from blockpath.guests.tiny import tools

META_PACKAGE = 'linux-image-cloud-amd64'
#: Disks on either bus, the network, and the power button, which evdev passes
#: on to the keeper. PCI hot-plug is built in.
MODULES = ('virtio_pci', 'virtio_blk', 'virtio_scsi', 'sd_mod', 'virtio_net',
           'button', 'evdev')
#: The file systems of users' disks, and of the one that it boots from.
FOR_USERS = ('ext4', 'vfat', 'nls_cp437', 'nls_ascii')


@dataclasses.dataclass(frozen=True)
class Kernel:
    release: str
    vmlinuz: pathlib.Path
    #: In the order of loading, dependencies first.
    modules: tuple[pathlib.Path, ...]
    #: The same, of those that a guest which takes logins loads besides.
    for_users: tuple[pathlib.Path, ...]


def fetch(cache: pathlib.Path) -> pathlib.Path:
    """The package's file: the newest in ``cache``, else the current one.

    So a cached kernel serves offline, and an image does not change under a
    series of measurements; remove the file to take a newer one.

    :raises BlockpathError: none cached, and it cannot be downloaded
    """
    cache.mkdir(parents=True, exist_ok=True)
    found = sorted(cache.glob('linux-image-*.deb'),
                   key=lambda deb: deb.stat().st_mtime)
    if found:
        return found[-1]
    try:
        depends = tools.run(('apt-cache', 'depends', META_PACKAGE))
        package = next(line.split()[1] for line in depends.splitlines()
                       if line.strip().startswith('Depends: linux-image-'))
        # The unprivileged user that apt would download as cannot write here.
        # It renames the file into place only when its hash is right.
        tools.run(('apt-get', '-o', 'APT::Sandbox::User=root', 'download',
                   package), cwd=cache)
        return next(cache.glob(f'{package}_*.deb'))
    except (errors.BlockpathError, StopIteration) as error:
        raise errors.BlockpathError(
            f'cannot download the guest\'s kernel, {META_PACKAGE}: '
            f'{str(error) or "apt does not know it"}; run "apt-get update", '
            f'or put the package\'s file into {cache}') from error


def unpack(deb: pathlib.Path, into: pathlib.Path) -> Kernel:
    """Unpacks the package below ``into`` and picks what the guest needs.

    :raises BlockpathError: not a kernel, or one that lacks a module
    """
    tools.run(('dpkg-deb', '-x', deb, into))
    vmlinuz = next(into.glob('boot/vmlinuz-*'), None)
    if vmlinuz is None:
        raise errors.BlockpathError(
            f'{deb} holds no kernel image: remove it to download another')
    release = vmlinuz.name.removeprefix('vmlinuz-')
    tools.run(('depmod', '-b', into, release))

    def ordered(names: tuple[str, ...]) -> tuple[pathlib.Path, ...]:
        shown = tools.run(('modprobe', '-d', into, '-S', release, '-a',
                           '--show-depends', *names))
        paths = [pathlib.Path(line.split()[1]) for line in shown.splitlines()
                 if line.startswith('insmod ')]
        return tuple(dict.fromkeys(paths))

    modules = ordered(MODULES)
    return Kernel(release, vmlinuz, modules, tuple(
        path for path in ordered(FOR_USERS) if path not in modules))
