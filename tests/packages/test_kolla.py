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
"""Images as Kolla builds them: kolla-build's contexts, and its own script.

There is no registry and no container engine here. What kolla-build puts into
an image's context is made by itself, and the script that each image runs on
it runs in a root that has Kolla's venv and this machine's tools.
"""

import pathlib
import sys

from blockpath.series import export
from tests.packages import base

#: Kolla, and what its command imports beyond OpenStack's libraries.
KOLLA = ('kolla==23.0.0', 'docker==7.2.0', 'GitPython==3.2.1',
         'gitdb==4.0.12', 'smmap==5.0.3')
#: In the order in which one is built upon the other.
CONTEXTS = ('openstack-base', 'nova/nova-base', 'cinder/cinder-base')


class KollaTest(base.PackagesTestCase):

    builder: pathlib.Path
    contexts: pathlib.Path

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        venv = cls.folder / 'kolla'
        cls.builder = base.make_venv(venv, *KOLLA) / 'kolla'
        (cls.folder / 'kolla-build.conf').write_text(
            f'[DEFAULT]\nbase = debian\n'
            f'patches_path = {cls.exported}/kolla\n')
        base.run(venv / 'bin/kolla-build', '--config-file',
                 cls.folder / 'kolla-build.conf', '--template-only',
                 '--work-dir', cls.folder / 'work', '^nova-', '^cinder-')
        cls.contexts = cls.folder / 'work/docker'

    def setUp(self) -> None:
        super().setUp()
        self.root = self.scratch()
        venv = self.root / 'var/lib/kolla/venv'
        self.packages = base.make_venv(venv, *base.releases())
        # As openstack-base's Dockerfile names it for every Python.
        (venv / 'lib/python3').symlink_to(
            f'python{sys.version_info[0]}.{sys.version_info[1]}')
        for folder in ('etc/kolla', 'tmp', 'usr', 'dev'):
            (self.root / folder).mkdir(parents=True)
        for name in ('bin', 'lib', 'lib64'):
            if pathlib.Path('/', name).is_symlink():
                (self.root / name).symlink_to(f'usr/{name}')
        script = self.builder / 'docker/base/kolla_patch.sh'
        (self.root / 'kolla_patch').write_bytes(script.read_bytes())

    def build(self, context: str) -> str:
        """What an image's Dockerfile does: COPY patches, RUN kolla_patch."""
        patches = self.root / 'patches'
        patches.mkdir(exist_ok=True)
        for path in (self.contexts / context / 'patches').iterdir():
            (patches / path.name).write_bytes(path.read_bytes())
        # In namespaces of its own, which end with it, mounts and all.
        return base.run(
            'unshare', '--mount', '--pid', '--fork', 'sh', '-e', '-c',
            'mount --rbind /usr "$1/usr"; mount --rbind /dev "$1/dev"; '
            'exec chroot "$1" /bin/bash /kolla_patch', 'sh', self.root)

    def test_the_images_have_the_script_run(self):
        for context in CONTEXTS:
            dockerfile = (self.contexts / context / 'Dockerfile').read_text()
            copied = dockerfile.index('COPY patches /patches')
            self.assertGreater(dockerfile.index('RUN kolla_patch'), copied)
            # What is patched must have been installed by then.
            self.assertGreater(copied, dockerfile.rindex('pip '))

    def test_each_image_s_patches(self):
        for context in CONTEXTS:
            said = self.build(context)
            self.assertNotRegex(said, 'fuzz|offset|FAILED')
            names = (self.contexts / context / 'patches/series').read_text()
            for name in names.split():
                self.assertIn(f'Applying /patches/{name}', said)
        self.assert_patched(self.packages)
        leftovers = [path for path in self.packages.rglob('*')
                     if path.suffix in ('.orig', '.rej')]
        self.assertEqual([], leftovers)
        # An image built upon these has no patches of its own.
        self.assertIn('nothing to patch', self.build('nova/nova-compute'))
        # One that has the same again applies none twice.
        said = self.build('nova/nova-base')
        self.assertNotIn('Applying', said)
        self.assertIn('already applied', said)
        self.assert_patched(self.packages)

    def test_images_of_the_export(self):
        self.assertEqual(
            sorted(pathlib.PurePath(context).name for context in CONTEXTS),
            sorted(path.name for path in
                   (self.exported / 'kolla').iterdir()))
        self.assertEqual(set(export.IMAGES.values()),
                         {pathlib.PurePath(each).name for each in CONTEXTS})
