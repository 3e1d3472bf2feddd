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
"""Building the guest's image: once, wholly or not at all, with clear errors.

tests/guests boots it.
"""

import pathlib
import tempfile
from typing import Any
from unittest import mock

import testtools

from blockpath import errors
from blockpath.guests.tiny import image
from blockpath.guests.tiny import kernel
from blockpath.guests.tiny import tools


class CacheTestCase(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.cache = pathlib.Path(folder.name) / 'guest'
        self.said: list[str] = []

    def patch_attr(self, target: object, name: str, new: object) -> None:
        patcher = mock.patch.object(target, name, new)
        patcher.start()
        self.addCleanup(patcher.stop)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.cache.iterdir())


class TestTools(testtools.TestCase):

    def test_missing_program_names_its_package(self) -> None:
        with mock.patch.object(tools, 'SEARCH', '/nonexistent'):
            error = self.assertRaises(errors.BlockpathError, tools.run,
                                      ('mcopy', 'a', 'b'))
        self.assertIn('apt-get install mtools', str(error))

    def test_failure_quotes_the_last_line(self) -> None:
        error = self.assertRaises(
            errors.BlockpathError, tools.run,
            ('sh', '-c', 'echo one >&2; echo two >&2; exit 3'))
        self.assertEqual('sh failed with exit code 3: two', str(error))

    def test_silent_failure(self) -> None:
        error = self.assertRaises(errors.BlockpathError, tools.run,
                                  ('false',))
        self.assertIn('it said nothing', str(error))

    def test_input(self) -> None:
        self.assertEqual('a\nb\n', tools.run(('cat',), text='a\nb\n'))


class TestKernel(CacheTestCase):

    def test_cached_file_needs_no_apt(self) -> None:
        self.cache.mkdir()
        deb = self.cache / 'linux-image-6.1.0-1-cloud-amd64_6.1_amd64.deb'
        deb.touch()
        self.patch_attr(kernel.tools, 'SEARCH', '/nonexistent')
        self.assertEqual(deb, kernel.fetch(self.cache))

    def test_downloads_what_the_meta_package_names(self) -> None:
        name = 'linux-image-6.1.0-9-cloud-amd64'

        def run(args: tuple[str, ...], cwd: pathlib.Path | None = None
                ) -> str:
            if args[0] == 'apt-get':
                self.assertEqual(name, args[-1])
                (self.cache / f'{name}_6.1.9_amd64.deb').touch()
                return ''
            return f'{kernel.META_PACKAGE}\n  Depends: {name}\n'

        self.patch_attr(kernel.tools, 'run', run)
        self.assertEqual(f'{name}_6.1.9_amd64.deb',
                         kernel.fetch(self.cache).name)

    def test_offline_is_one_clear_line(self) -> None:
        def run(args: tuple[str, ...], cwd: pathlib.Path | None = None
                ) -> str:
            if args[0] == 'apt-get':
                raise errors.BlockpathError('apt-get failed: no route')
            return '  Depends: linux-image-6.1.0-9-cloud-amd64\n'

        self.patch_attr(kernel.tools, 'run', run)
        error = self.assertRaises(errors.BlockpathError, kernel.fetch,
                                  self.cache)
        self.assertIn('no route; run "apt-get update"', str(error))
        self.assertNotIn('\n', str(error))
        self.assertEqual([], self.names())

    def test_package_lists_that_know_no_kernel(self) -> None:
        self.patch_attr(kernel.tools, 'run', lambda args, cwd=None: '')
        error = self.assertRaises(errors.BlockpathError, kernel.fetch,
                                  self.cache)
        self.assertIn('apt does not know it', str(error))


class TestBuild(CacheTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.built: list[str] = []
        self.patch_attr(image, 'CACHE', self.cache)
        self.patch_attr(image.kernels, 'fetch', self.fetch)
        self.patch_attr(image.kernels, 'unpack', self.unpack)
        self.patch_attr(image, '_make_initrd', self.make)
        self.patch_attr(image, '_make_disk', self.make)

    def fetch(self, cache: pathlib.Path) -> pathlib.Path:
        deb = cache / 'linux-image-6.1.0-1_6.1_amd64.deb'
        deb.touch()
        return deb

    def unpack(self, deb: pathlib.Path, into: pathlib.Path) -> kernel.Kernel:
        into.mkdir()
        (into / 'vmlinuz').write_bytes(b'kernel')
        return kernel.Kernel('6.1.0-1', into / 'vmlinuz', (), ())

    def make(self, *args: object) -> None:
        self.built.append('part')

    def build(self, **options: Any) -> image.GuestImage:
        return image.build(say=self.said.append, **options)

    def test_once(self) -> None:
        first = self.build()
        self.assertEqual(2, len(self.built))
        self.assertEqual(first, self.build())
        self.assertEqual(2, len(self.built))
        self.assertEqual(b'kernel', first.vmlinuz.read_bytes())
        self.assertEqual('6.1.0-1', first.kernel_release)
        self.assertEqual(['guest: downloading its kernel',
                          'guest: building its image',
                          f'guest: built {first.path}'], self.said)

    def test_other_pauses_are_another_image(self) -> None:
        first, second = self.build(), self.build(interval_us=2000)
        self.assertNotEqual(first.path, second.path)
        self.assertIn('blockpath.interval_us=2000', second.cmdline)

    def test_one_to_log_in_to_is_another_image(self) -> None:
        first, second = self.build(), self.build(takes_logins=True)
        self.assertNotEqual(first.path, second.path)
        self.assertIn('blockpath.logins=1', second.cmdline)

    def test_failure_leaves_nothing(self) -> None:
        for failure in (errors.BlockpathError('no space'),
                        KeyboardInterrupt()):
            self.patch_attr(image, '_make_disk',
                            mock.Mock(side_effect=failure))
            self.assertRaises(type(failure), self.build)
            self.assertEqual(['linux-image-6.1.0-1_6.1_amd64.deb', 'lock'],
                             self.names())

    def test_half_a_result_is_built_again(self) -> None:
        first = self.build()
        (first.path.parent / 'image.json').unlink()
        self.assertEqual(first, self.build())
        self.assertEqual(4, len(self.built))

    def test_boot_sector(self) -> None:
        sector = image._boot_sector(32 * image.MIB)
        self.assertEqual(512, len(sector))
        self.assertEqual(b'\x55\xaa', sector[510:])
        self.assertEqual(0x80, sector[446])
        self.assertEqual(32 * 2048, int.from_bytes(sector[458:462],
                                                   'little'))
