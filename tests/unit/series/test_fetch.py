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
import hashlib
import io
import os
import pathlib
import tarfile

import fixtures

from blockpath.series import fetch
from blockpath.series import model
from tests.unit.series import base


class FetchCase(base.TestCase):
    """A checkout with nothing fetched, and an index that is a folder."""

    def setUp(self):
        super().setUp()
        self.index = self.temp / 'index'
        self.index.mkdir()
        self.root = self.temp / 'checkout'
        (self.root / 'patches').mkdir(parents=True)
        for name, value in {'PIP_NO_INDEX': '1',
                            'PIP_FIND_LINKS': str(self.index)}.items():
            self.useFixture(fixtures.EnvironmentVariable(name, value))
        self.publish(base.sdist(base.FILES))

    def publish(self, data: bytes) -> None:
        (self.index / 'nova-34.0.0.tar.gz').write_bytes(data)
        self.pin(data)

    def pin(self, data: bytes) -> None:
        (self.root / 'patches' / 'series.toml').write_text(
            base.TOML.format(sha256=hashlib.sha256(data).hexdigest()))

    def fetch(self) -> str:
        return fetch.fetch(model.Series(self.root), 'nova', base.RELEASE)

    @property
    def trees(self) -> pathlib.Path:
        return self.root / '.trees' / base.RELEASE / 'base'

    def assert_nothing(self) -> None:
        """No tree, no part of one, no download."""
        for folder in (self.trees, self.root / '.cache' / 'sdists'):
            if folder.exists():
                self.assertEqual([], list(folder.iterdir()))

    def assert_refused(self, words: str) -> None:
        self.assert_says(fetch.FetchError, words, self.fetch)


class DownloadTest(FetchCase):

    def test_fetch(self):
        self.assertIn('unpacked', self.fetch())
        self.assertEqual({path: text.encode()
                          for path, text in base.FILES.items()},
                         base.snapshot(self.trees / 'nova'))

    def test_is_not_downloaded_again(self):
        self.fetch()
        (self.index / 'nova-34.0.0.tar.gz').unlink()
        self.assertIn('is there', self.fetch())
        os.rename(self.trees / 'nova', self.temp / 'gone')
        self.assertIn('unpacked', self.fetch())

    def test_wrong_hash(self):
        self.pin(b'another')
        self.assert_refused('sha256')
        self.assert_nothing()

    def test_wrong_hash_runs_none_of_its_code(self):
        mark = self.temp / 'ran'
        evil = base.sdist(base.FILES | {
            'setup.py': f'open({str(mark)!r}, "w")\n'})
        (self.index / 'nova-34.0.0.tar.gz').write_bytes(evil)
        self.assert_refused('sha256')
        self.assertFalse(mark.exists())

    def test_damaged_cache_is_fetched_again(self):
        self.fetch()
        os.rename(self.trees / 'nova', self.temp / 'gone')
        cached = self.root / '.cache' / 'sdists' / 'nova-34.0.0.tar.gz'
        cached.write_bytes(cached.read_bytes()[:100])
        self.assertIn('unpacked', self.fetch())

    def test_no_such_release(self):
        (self.index / 'nova-34.0.0.tar.gz').rename(
            self.index / 'nova-33.0.0.tar.gz')
        self.assert_refused('nova-34.0.0.tar.gz')
        self.assert_nothing()

    def test_offline(self):
        self.useFixture(fixtures.EnvironmentVariable('PIP_NO_INDEX', None))
        self.useFixture(fixtures.EnvironmentVariable('PIP_FIND_LINKS', None))
        # Port 9 discards; nobody listens there.
        self.useFixture(fixtures.EnvironmentVariable(
            'PIP_INDEX_URL', 'http://127.0.0.1:9/simple'))
        self.assert_refused('pip.conf')
        self.assert_nothing()


class UnpackTest(FetchCase):

    def archive(self, *members: tarfile.TarInfo) -> None:
        stream = io.BytesIO(base.sdist(base.FILES))
        whole = io.BytesIO()
        with tarfile.open(fileobj=stream) as old, \
                tarfile.open(fileobj=whole, mode='w:gz') as new:
            for member in old:
                new.addfile(member, old.extractfile(member))
            for member in members:
                new.addfile(member, io.BytesIO(b'x' * member.size))
        # Straight into the cache: pip would refuse some of them before us.
        self.pin(whole.getvalue())
        cache = self.root / '.cache' / 'sdists'
        cache.mkdir(parents=True)
        (cache / 'nova-34.0.0.tar.gz').write_bytes(whole.getvalue())

    def member(self, name: str, **attributes) -> tarfile.TarInfo:
        member = tarfile.TarInfo(name)
        for key, value in attributes.items():
            setattr(member, key, value)
        return member

    def assert_no_tree(self, words: str) -> None:
        self.assert_refused(words)
        self.assertEqual([], list(self.trees.iterdir()))

    def test_parent_folder(self):
        self.archive(self.member('nova-34.0.0/../../escaped', size=1))
        self.assert_no_tree('cannot be unpacked')
        self.assertEqual([], list(self.temp.rglob('escaped')))

    def test_absolute_path(self):
        self.archive(self.member(f'{self.temp}/escaped', size=1))
        self.assert_no_tree('outside')
        self.assertFalse((self.temp / 'escaped').exists())

    def test_link_out_of_it(self):
        self.archive(self.member('nova-34.0.0/link', type=tarfile.SYMTYPE,
                                 linkname='../../../../../etc/passwd'))
        self.assert_no_tree('cannot be unpacked')

    def test_hard_link(self):
        self.archive(self.member('nova-34.0.0/link', type=tarfile.LNKTYPE,
                                 linkname='../../../../../etc/passwd'))
        self.assert_no_tree('no plain file')

    def test_owner_and_special_modes_are_not_taken(self):
        self.archive(self.member('nova-34.0.0/run', mode=0o4755, uid=1234,
                                 gid=1234))
        self.fetch()
        stat = (self.trees / 'nova/run').stat()
        self.assertEqual((0o755, os.getuid()),
                         (stat.st_mode & 0o7777, stat.st_uid))

    def test_device(self):
        self.archive(self.member('nova-34.0.0/null', type=tarfile.CHRTYPE))
        self.assert_no_tree('cannot be unpacked')

    def test_cut_off(self):
        data = base.sdist(base.FILES)
        half = data[:len(data) // 2]
        self.pin(half)
        cache = self.root / '.cache' / 'sdists'
        cache.mkdir(parents=True)
        (cache / 'nova-34.0.0.tar.gz').write_bytes(half)
        self.assert_no_tree('cannot be unpacked')

    def test_interrupted(self):
        copies = []

        def interrupt(source, destination):
            copies.append(destination)
            if len(copies) == 3:
                raise KeyboardInterrupt
        self.useFixture(fixtures.MonkeyPatch('shutil.copyfileobj', interrupt))
        self.assertRaises(KeyboardInterrupt, self.fetch)
        self.assertEqual([], list(self.trees.iterdir()))

    def test_what_a_killed_run_left(self):
        """A partial tree of a process that is gone is cleared away."""
        left = self.trees / '.nova.partial-999999999'
        left.mkdir(parents=True)
        running = self.trees / f'.nova.partial-{os.getppid()}'
        running.mkdir()
        self.fetch()
        self.assertFalse(left.exists())
        self.assertTrue(running.exists())

    def test_another_version_is_in_the_way(self):
        (self.trees / 'nova').mkdir(parents=True)
        self.assert_refused('move it away')
