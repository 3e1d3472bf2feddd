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
"""The hosts' Debian: whole or not at all, once, and with a new QEMU.

mmdebstrap, unshare and apt-get are scripts, first in PATH; dpkg-query is
real.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from unittest import mock

import fixtures
import testtools

from blockpath.machine import errors
from blockpath.machine import userland
from blockpath import paths

BOOKWORM = userland.SUITES['bookworm']
TRIXIE = userland.SUITES['trixie']

APT_GET = '''#!/bin/sh
echo 'Docker Docker http://docker'
cat {folder}/mirror
'''
#: Its log has a warning before the error, and more after that.
MMDEBSTRAP = '''#!/bin/sh
printf '%s\\n' "$*" >>{folder}/made
while [ -e {folder}/hold ]; do sleep 0.02; done
for word; do
    case $word in -*) ;; *) break ;; esac
    shift
done
root=$2
mkdir -p "$root/usr/lib" "$root/usr/sbin" "$root/var/lib/dpkg" \\
    "$root/etc/systemd/system" "$root/etc/libvirt/qemu/networks/autostart"
ln -s usr/lib "$root/lib"
ln -s usr/sbin "$root/sbin"
touch "$root/etc/libvirt/qemu/networks/autostart/default.xml" \\
    "$root/etc/systemd/system/fstrim.timer"
echo 0123 >"$root/etc/machine-id"
if [ -e {folder}/fail ]; then
    echo 'I: running apt-get update'
    echo 'W: something odd'
    echo 'E: Unable to locate package qemu-system-x86'
    echo 'E: mmdebstrap failed to run'
    exit 1
fi
cp {folder}/status "$root/var/lib/dpkg/status"
echo 'I: success'
'''
#: Makes a virtual environment; what uv would install, it writes down.
UNSHARE = '''#!/bin/sh
set -e
shift 5
root=$2
shift 2
case $1 in
    /usr/bin/python3)
        for venv; do :; done
        echo "$root" >>{folder}/venvs
        mkdir -p "$venv/bin" "$venv/lib/python3.13/site-packages"
        ln -s {python} "$venv/bin/python" ;;
    *)
        printf '%s\\n' "$*" >>{folder}/installed
        venv=${{5%/bin/python}}
        if [ -e {folder}/installs ]; then
            mkdir "$venv/lib/python3.13/site-packages/$(cat {folder}/installs)"
        fi
        if [ -e {folder}/fail ]; then
            echo '  x No solution found: nova needs a newer Python'
            exit 1
        fi ;;
esac
'''


class UserlandTest(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name).resolve()
        self.cache = self.folder / 'cache'
        self.modules = self.folder / 'modules' / '7.2.7'
        self.modules.mkdir(parents=True)
        (self.modules / 'modules.dep').write_text('overlay.ko:\n')
        (self.modules / 'build').symlink_to('/nowhere')
        self.said: list[str] = []
        self.bin = self.folder / 'bin'
        self.bin.mkdir()
        for name, script in (('apt-get', APT_GET), ('mmdebstrap', MMDEBSTRAP),
                             ('unshare', UNSHARE)):
            path = self.bin / name
            path.write_text(script.format(folder=self.folder,
                                          python=sys.executable))
            path.chmod(0o755)
        (self.folder / 'mirror').write_text(
            'Debian Debian http://mirror/debian\n'
            'Debian Debian-Security http://security\n')
        self.set_versions('1:10.0.2+ds-2+deb13u1~bpo12+1', '11.3.0-2~bpo12+1')
        self.useFixture(fixtures.EnvironmentVariable(
            'PATH', f'{self.bin}:{os.environ["PATH"]}'))

    def set_versions(self, qemu: str, libvirt: str) -> None:
        """Set which versions the archive has; '' for none."""
        (self.folder / 'status').write_text(''.join(
            f'Package: {name}\nStatus: install ok installed\n'
            f'Maintainer: a <a@b>\nArchitecture: all\nVersion: {version}\n'
            'Description: x\n\n'
            for name, version in (('qemu-system-x86', qemu),
                                  ('libvirt-daemon-system', libvirt))
            if version))

    def prepare(self, suite: userland.Suite = BOOKWORM) -> pathlib.Path:
        return userland.prepare(suite, self.cache, self.modules,
                                self.said.append)

    def fail_to_prepare(self) -> str:
        """Return the message, of one line; nothing but the log is left."""
        error = self.assertRaises(errors.LabError, self.prepare)
        self.assertEqual(['bookworm.lock', 'bookworm.log'],
                         sorted(os.listdir(self.cache)))
        self.assertNotIn('\n', error.message)
        return error.message

    def lines(self, name: str) -> list[str]:
        """Read what a script wrote down."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


class TestPrepare(UserlandTest):

    def test_command_line(self) -> None:
        root = self.prepare()
        self.assertEqual(self.cache / 'bookworm', root)
        self.prepare(TRIXIE)
        bookworm, trixie = self.lines('made')
        signed = f'deb [signed-by={userland._KEYRING}] http://mirror/debian'
        self.assertTrue(bookworm.endswith(
            f' bookworm {self.cache}/bookworm.new {signed} bookworm main '
            f'{signed} bookworm-backports main'), bookworm)
        self.assertIn('APT::Default-Release "bookworm-backports"', bookworm)
        self.assertTrue(trixie.endswith(
            f' trixie {self.cache}/trixie.new {signed} trixie main'), trixie)
        self.assertNotIn('Default-Release', trixie)
        for package in ('multipath-tools', 'targetcli-fb', 'openssh-server'):
            self.assertRegex(bookworm, f'--include=\\S*\\b{package}\\b')

    def test_made_once(self) -> None:
        first = self.prepare()
        (first / 'mark').touch()
        self.assertEqual(first, self.prepare())
        self.assertTrue((first / 'mark').exists())
        self.assertEqual(1, len(self.lines('made')))
        self.assertEqual(
            ['making a Debian bookworm for the hosts, a minute'], self.said)

    def test_another_recipe_or_kernel(self) -> None:
        (self.prepare() / 'mark').touch()
        with mock.patch.object(userland, '_MASKED', ('cron.service',)):
            self.assertFalse((self.prepare() / 'mark').exists())
        self.prepare()
        self.modules = self.modules.rename(self.modules.with_name('7.2.8'))
        root = self.prepare()
        self.assertEqual(4, len(self.lines('made')))
        self.assertEqual(['7.2.8'], os.listdir(root / 'lib/modules'))

    def test_changed_first_process(self) -> None:
        init = self.folder / 'init.sh'
        init.write_text('#!/bin/sh\n')
        self.prepare()
        with mock.patch.object(userland, '_INIT', init):
            root = self.prepare()
        self.assertEqual('#!/bin/sh\n',
                         (root / userland.INIT[1:]).read_text())

    def test_a_folder_without_a_marker(self) -> None:
        for text in (None, '', '[]'):
            folder = self.cache / 'bookworm'
            folder.mkdir(parents=True, exist_ok=True)
            (folder / 'mark').touch()
            if text is not None:
                (folder / userland._MARKER).write_text(text)
            self.assertFalse((self.prepare() / 'mark').exists())

    def test_a_failure(self) -> None:
        (self.folder / 'fail').touch()
        log = self.cache / 'bookworm.log'
        self.assertEqual(
            'a Debian bookworm for the hosts cannot be made: E: Unable to '
            f'locate package qemu-system-x86; its log is {log}',
            self.fail_to_prepare())
        self.assertIn('W: something odd', log.read_text())
        (self.folder / 'fail').unlink()
        self.assertTrue(self.prepare().is_dir())

    def test_what_a_killed_process_left(self) -> None:
        (self.cache / 'bookworm.new' / 'usr').mkdir(parents=True)
        (self.cache / 'bookworm.new' / 'mark').touch()
        root = self.prepare()
        self.assertFalse((root / 'mark').exists())
        self.assertFalse((self.cache / 'bookworm.new').exists())

    def test_interrupted(self) -> None:
        with mock.patch.object(userland, '_customize',
                               side_effect=KeyboardInterrupt):
            self.assertRaises(KeyboardInterrupt, self.prepare)
        self.assertEqual(['bookworm.lock', 'bookworm.log'],
                         sorted(os.listdir(self.cache)))

    def test_two_at_once(self) -> None:
        (self.folder / 'hold').touch()
        found: list[pathlib.Path] = []
        threads = [threading.Thread(
            target=lambda: found.append(self.prepare())) for _ in 'ab']
        for thread in threads:
            thread.start()
        while not self.lines('made'):
            time.sleep(0.02)
        # The other has had its chance.
        time.sleep(0.2)
        (self.folder / 'hold').unlink()
        for thread in threads:
            thread.join()
        self.assertEqual([self.cache / 'bookworm'] * 2, found)
        self.assertEqual(1, len(self.lines('made')))

    def test_no_mirror(self) -> None:
        (self.folder / 'mirror').write_text('Ubuntu Ubuntu http://u\n')
        error = self.assertRaises(errors.LabError, self.prepare)
        self.assertIn('apt knows no mirror of Debian', error.message)
        self.assertEqual([], self.lines('made'))


class TestContent(UserlandTest):

    def test_masked(self) -> None:
        units = self.prepare() / 'etc/systemd/system'
        self.assertEqual(
            dict.fromkeys(userland._MASKED, '/dev/null'),
            {unit.name: os.readlink(unit) for unit in units.iterdir()})
        for needed in ('systemd-udevd.service', 'libvirtd.service',
                       'multipathd.service', 'iscsid.socket', 'ssh.service'):
            self.assertNotIn(needed, userland._MASKED)

    def test_udev_watches_no_block_device(self) -> None:
        [rules] = (self.prepare() / 'etc/udev/rules.d').iterdir()
        self.assertIn('SUBSYSTEM=="block", OPTIONS:="nowatch"',
                      rules.read_text())

    def test_first_process(self) -> None:
        init = self.prepare() / userland.INIT[1:]
        self.assertEqual(userland._INIT.read_text(), init.read_text())
        self.assertTrue(os.access(init, os.X_OK))
        subprocess.run(['sh', '-n', init], check=True)

    def test_modules(self) -> None:
        modules = self.prepare() / 'usr/lib/modules/7.2.7'
        self.assertEqual('overlay.ko:\n',
                         (modules / 'modules.dep').read_text())
        self.assertEqual('/nowhere', os.readlink(modules / 'build'))

    def test_what_differs_between_hosts_is_not_there(self) -> None:
        root = self.prepare()
        self.assertFalse((root / 'etc/machine-id').exists())
        self.assertFalse((root / 'etc/libvirt/qemu/networks/autostart/'
                          'default.xml').exists())


class TestVersions(UserlandTest):

    def test_old_qemu(self) -> None:
        self.set_versions('1:8.2.2+ds-0', '11.3.0-1')
        self.assertEqual(
            'the hosts need qemu-system-x86 9.0 or newer; Debian bookworm '
            'has 1:8.2.2+ds-0', self.fail_to_prepare())

    def test_old_libvirt(self) -> None:
        self.set_versions('1:10.0.2+ds-2', '9.0.0-4+deb12u2')
        self.assertEqual(
            'the hosts need libvirt-daemon-system 10.0 or newer; Debian '
            'bookworm has 9.0.0-4+deb12u2', self.fail_to_prepare())

    def test_oldest(self) -> None:
        # No epoch, and 10 is more than 9.
        self.set_versions('9.0.0+ds-1', '10.0.0-1')
        self.assertTrue(self.prepare().is_dir())

    def test_none(self) -> None:
        self.set_versions('', '11.3.0-1')
        self.assertIn('has none', self.fail_to_prepare())


class TestEnvironment(UserlandTest):

    def setUp(self) -> None:
        super().setUp()
        self.venv = self.folder / 'venv'
        self.patch(paths, 'VENV', self.venv)
        self.requirements = self.folder / 'requirements.txt'
        self.requirements.write_text('oslo.config\n')
        self.cache.mkdir()
        self.root = self.folder / 'root'

    def make_venv(self, home: str, python: str) -> None:
        """Make what .venv may be."""
        (self.venv / 'lib' / f'python{python}').mkdir(parents=True)
        (self.venv / 'pyvenv.cfg').write_text(
            f'home = {home}\nversion = {python}.2\n')

    def environment(self, suite: userland.Suite = TRIXIE,
                    folders: list[pathlib.Path] | None = None
                    ) -> pathlib.Path:
        return userland.environment(
            suite, self.cache, self.root, [self.requirements], ['PyMySQL'],
            folders or [self.folder / 'nova'], self.said.append)

    def test_which_one(self) -> None:
        own = self.cache / 'bookworm.venv'
        self.assertEqual(own, userland.venv_of(BOOKWORM, self.cache))
        self.make_venv('/usr/bin', '3.11')
        self.assertEqual(self.venv, userland.venv_of(BOOKWORM, self.cache))
        self.assertEqual(self.cache / 'trixie.venv',
                         userland.venv_of(TRIXIE, self.cache))

    def test_a_python_that_hosts_do_not_have(self) -> None:
        self.make_venv('/opt/python/bin', '3.11')
        self.assertEqual(self.cache / 'bookworm.venv',
                         userland.venv_of(BOOKWORM, self.cache))

    def test_that_of_the_machine_serves(self) -> None:
        self.make_venv('/usr/bin', '3.11')
        self.assertEqual(self.venv, self.environment(BOOKWORM))
        self.assertEqual([], self.lines('venvs'))

    def test_made_once(self) -> None:
        venv = self.environment()
        self.assertEqual(venv, self.environment())
        self.assertEqual([str(self.root / 'usr')], self.lines('venvs'))
        [command] = self.lines('installed')
        self.assertTrue(command.endswith(
            f' --python {venv}/bin/python -c {paths.ROOT}/constraints.txt '
            f'--excludes {venv}/excludes.txt '
            f'-r {self.requirements} PyMySQL'), command)
        self.assertEqual(['installing the services for Python 3.13'],
                         self.said)
        listed = venv / 'lib/python3.13/site-packages/blockpath-trees.pth'
        self.assertEqual(f'{self.folder}/nova\n', listed.read_text())

    def test_other_requirements(self) -> None:
        (self.environment() / 'mark').touch()
        self.requirements.write_text('oslo.config\noslo.log\n')
        self.assertFalse((self.environment() / 'mark').exists())
        self.assertEqual(2, len(self.lines('installed')))

    def test_a_failure(self) -> None:
        (self.folder / 'fail').touch()
        error = self.assertRaises(errors.LabError, self.environment)
        self.assertEqual(
            'the services cannot be installed: x No solution found: nova '
            f'needs a newer Python; its log is {self.cache}/trixie.venv.log',
            error.message)
        (self.folder / 'fail').unlink()
        self.assertEqual(self.cache / 'trixie.venv', self.environment())
        self.assertEqual(2, len(self.lines('installed')))

    def make_tree(self, package: str) -> pathlib.Path:
        """Make a source tree as pip leaves it."""
        tree = self.folder / package
        info = tree / f'{package}.egg-info'
        info.mkdir(parents=True)
        (info / 'top_level.txt').write_text(f'{package}\n')
        return tree

    def test_a_tree_is_not_installed_as_well(self) -> None:
        """site-packages come first."""
        trees = [self.make_tree('nova'), self.make_tree('os_brick')]
        venv = self.environment(folders=trees)
        self.assertEqual('nova\nos_brick\n',
                         (venv / 'excludes.txt').read_text())
        (self.folder / 'installs').write_text('os_brick')
        self.requirements.write_text('oslo.config\nos-brick\n')
        error = self.assertRaises(errors.LabError, self.environment,
                                  folders=trees)
        self.assertIn('site-packages/os_brick hides os_brick of the patched '
                      'trees', error.message)

    def test_commands(self) -> None:
        tree = self.make_tree('nova')
        info = tree / 'nova.egg-info'
        (info / 'entry_points.txt').write_text(
            '[console_scripts]\nnova-compute = said.cmd:main\n\n'
            '[nova.drivers]\nfile = said.driver:File\n')
        (tree / 'said').mkdir()
        (tree / 'said' / '__init__.py').touch()
        (tree / 'said' / 'cmd.py').write_text(
            'import sys\n\n\ndef main():\n    print(*sys.argv[1:])\n'
            '    return 3\n')
        other = self.make_tree('brick')
        (other / 'brick.egg-info' / 'entry_points.txt').write_text(
            '[brick.plugins]\na = b:c\n')
        venv = self.environment(folders=[tree, other])
        script = venv / 'bin' / 'nova-compute'
        self.assertEqual(['nova-compute', 'python'],
                         sorted(os.listdir(venv / 'bin')))
        done = subprocess.run(
            [script, '--config-file', 'a'], capture_output=True, text=True,
            env=dict(os.environ, PYTHONPATH=str(tree)))
        self.assertEqual((3, '--config-file a\n', ''),
                         (done.returncode, done.stdout, done.stderr))
        self.assertEqual(f'#!{venv}/bin/python',
                         script.read_text().splitlines()[0])
