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
"""The hosts' kernel: the first that boots, once, wholly or not at all.

apt, patchelf, make and the kernels are shell scripts, first in PATH; dpkg,
setpriv and tar are real.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from unittest import mock

import testtools

from blockpath.machine import kernel
from tests.unit import signals

#: A mirror is a folder; a suite is a folder of packages in it.
APT_GET = '''#!/bin/sh
[ "$LC_ALL" = C ] || exit 1
cd_to=$PWD; cd {mirror}
echo "$*" >>calls
case $1 in
    indextargets)
        case "$*" in
            *--no-release-info*) cat entries ;;
            *) [ -e no-lists ] || cat entries ;;
        esac
        exit ;;
esac
list=$(sed -n 's/^Dir::Etc::sourcelist "\\(.*\\)";/\\1/p' "$3")
suite=$(sed -n 's/^Suites: //p; s/^deb.* \\([^ ]*\\) main$/\\1/p' "$list")
cp "$list" "source-$suite"
if [ -e hang ]; then
    touch "$cd_to/partial"
    sleep 60 &
    echo $! >child
    wait
elif [ -e offline ]; then
    printf "Ign:1 http://m $suite Release\\nErr:1 http://m $suite Release\\n"
    printf "  Temporary failure resolving 'm'\\nE: Failed to fetch\\n"
    exit 100
elif [ ! -d "$suite" ]; then
    printf "Err:2 http://m $suite Release\\n  $(cat absent)\\n"
    echo "E: The repository 'http://m $suite' does not have a Release file."
    exit 100
elif [ "$4" = download ]; then
    shift 4
    for package; do
        cp "$suite/${{package}}_"*.deb "$cd_to" 2>/dev/null || {{
            echo "E: Unable to locate package $package"
            exit 100
        }}
    done
fi
'''
#: Appends the loader and the library path to the binary.
PATCHELF = '''#!/bin/sh
case $1 in
    --print-interpreter) echo /lib64/ld-linux-x86-64.so.2 ;;
    --set-interpreter) echo "# $2 $4" >>"$5" ;;
esac
'''
BOOTS = '''#!/bin/sh
for argument; do
    case $argument in rootflags=*) root=${argument#*=} ;; esac
done
[ -x "$root/init" ] && [ -x "$root/bin/busybox" ] || exit 1
echo "Run /init as init process"
echo 7.2.7 >"$root/booted"
'''
PANICS = '''#!/bin/sh
echo "Kernel panic - not syncing: Unexpected FP registers"
echo Aborted
exit 134
'''
RELEASE = '7.2.7'
STANZA = ('Types: deb\nURIs: http://m\nSuites: bookworm\nComponents: main\n'
          'Signed-By: /k.gpg\n')


class KernelTestCase(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name).resolve()
        self.cache = self.folder / 'cache'
        self.said: list[str] = []
        self.bin = self.folder / 'bin'
        self.mirror = self.folder / 'mirror'
        self.mirror.mkdir()
        (self.mirror / 'absent').write_text('404  Not Found [IP: 1.2.3.4]')
        self.add_program('apt-get', APT_GET.format(mirror=self.mirror))
        self.add_program('patchelf', PATCHELF)
        self.add_program('busybox', '')
        self.use_entry(self.folder / 'debian.sources', 1, STANZA)
        path = f'{self.bin}:{os.environ["PATH"]}'
        patch = mock.patch.dict(os.environ, PATH=path)
        patch.start()
        self.addCleanup(patch.stop)

    def patch_attr(self, name: str, new: object) -> None:
        patch = mock.patch.object(kernel, name, new)
        patch.start()
        self.addCleanup(patch.stop)

    def add_program(self, name: str, script: str) -> None:
        self.bin.mkdir(exist_ok=True)
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def use_entry(self, path: pathlib.Path, number: int, text: str) -> None:
        path.write_text(text)
        (self.mirror / 'entries').write_text(
            f'bookworm-security main /other.sources:7\n'
            f'bookworm contrib {path}:9\nstable main {path}:{number}\n')

    def add_deb(self, suite: str, package: str, version: str,
                files: dict[str, str], fields: str = '') -> None:
        with tempfile.TemporaryDirectory() as name:
            root = pathlib.Path(name)
            # dpkg-deb refuses the mode of a temporary folder.
            root.chmod(0o755)
            files = {**files, 'DEBIAN/control':
                     f'Package: {package}\nVersion: {version}\n'
                     'Architecture: all\nMaintainer: a <a@b>\n'
                     f'Description: x\n{fields}'}
            for path, text in files.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text)
                (root / path).chmod(0o755)
            (self.mirror / suite).mkdir(exist_ok=True)
            subprocess.run(
                ('dpkg-deb', '-Znone', '-b', name,
                 self.mirror / suite / f'{package}_{version}_all.deb'),
                check=True, stdout=subprocess.DEVNULL)

    def add_kernel(self, suite: str, version: str = '7.2um1',
                   script: str = BOOTS, without: str = '') -> None:
        names = [name for name in kernel.MODULES if name != without]
        built_in, there = names[:5], names[5:]
        modules = f'usr/lib/uml/modules/{RELEASE}'
        self.add_deb(suite, kernel.PACKAGE, version, {
            'usr/bin/linux.uml': script,
            f'{modules}/modules.builtin': ''.join(
                f'kernel/a/{name.replace("_", "-")}.ko\n'
                for name in built_in),
            f'{modules}/modules.dep': ''.join(
                f'kernel/a/{name}.ko.xz: kernel/b/other.ko\n'
                for name in there)})
        self.add_deb(suite, 'libc6', '2.43', {
            'usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2': ''})

    def prepare(self) -> kernel.Kernel:
        return kernel.prepare(self.cache, self.said.append)

    def fail_to_prepare(self) -> str:
        error = self.assertRaises(kernel.KernelError, self.prepare)
        self.assertNotIn('\n', error.message)
        return error.message

    def names(self) -> list[str]:
        return sorted(path.name for path in self.cache.iterdir())

    def calls(self, command: str) -> int:
        path = self.mirror / 'calls'
        text = path.read_text() if path.exists() else ''
        return sum(command in line.split() for line in text.splitlines())

    def marker(self) -> dict[str, str]:
        return json.loads((self.cache / kernel.MARKER).read_text())

    def assert_dead(self, path: pathlib.Path) -> None:
        """See that the process whose id is in a file is gone."""
        pid = int(path.read_text())
        for _ in range(1500):
            stat = pathlib.Path(f'/proc/{pid}/stat')
            if not stat.exists() or stat.read_text().split()[2] == 'Z':
                return
            time.sleep(0.02)
        self.fail(f'process {pid} lives')

    def press_ctrl_c(self, path: pathlib.Path) -> None:
        """Interrupt prepare() as soon as a child of its child exists.

        :param path: file that this child's id is in
        """
        signals.heed_ctrl_c(self)
        # No thread: any could take the signal while the first blocks it.
        presser = subprocess.Popen(
            ('sh', '-c', f'until [ -s {path} ]; do sleep 0.01; done; '
                         f'kill -INT {os.getpid()}'))
        self.addCleanup(presser.wait)
        self.addCleanup(presser.kill)
        self.assertRaises(KeyboardInterrupt, self.prepare)


class TestPrepare(KernelTestCase):

    def test_first_that_serves(self) -> None:
        self.add_kernel('sid')
        found = self.prepare()
        self.assertEqual(RELEASE, found.release)
        self.assertEqual(RELEASE, found.modules.name)
        self.assertTrue((found.modules / 'modules.dep').exists())
        folder = self.cache / found.binary.relative_to(self.cache).parts[0]
        libc = folder / 'usr/lib/x86_64-linux-gnu'
        self.assertEqual(f'{BOOTS}# {libc}/ld-linux-x86-64.so.2 {libc}\n',
                         found.binary.read_text())
        self.assertTrue(libc.is_dir())
        self.assertEqual(
            ['kernel: fetching user-mode Linux from Debian sid',
             'kernel: trying it'], self.said)
        self.assertEqual([kernel.MARKER, 'lock', 'trial.log', folder.name],
                         self.names())
        self.assertEqual(['usr'], os.listdir(folder))

    def test_marker(self) -> None:
        self.add_kernel('sid')
        found = self.prepare()
        marker = self.marker()
        self.assertEqual(('7.2um1', 'sid'),
                         (marker['version'], marker['suite']))
        digest = subprocess.run(('sha256sum', found.binary), text=True,
                                capture_output=True).stdout.split()[0]
        self.assertEqual(digest, marker['sha256'])

    def test_second_call_starts_nothing(self) -> None:
        self.add_kernel('sid')
        first = self.prepare()
        del self.said[:]
        with mock.patch.object(subprocess, 'Popen',
                               side_effect=AssertionError):
            self.assertEqual(first, self.prepare())
        self.assertEqual([], self.said)

    def test_one_that_panics(self) -> None:
        self.add_kernel('sid', script=PANICS)
        self.add_kernel('forky', '7.1um1')
        self.prepare()
        self.assertEqual(('7.1um1', 'forky'), (self.marker()['version'],
                                               self.marker()['suite']))
        self.assertIn('kernel: Debian sid has none that serves: 7.2.7 does '
                      'not boot (exit code 134): Unexpected FP registers',
                      self.said)
        self.assertEqual(1, len(list(self.cache.glob('uml-*'))))

    def test_one_that_lacks_a_module(self) -> None:
        # The first is built into the other candidate, the last is not.
        for name in (kernel.MODULES[0], kernel.MODULES[-1]):
            self.add_kernel('sid', without=name)
            self.add_kernel('forky', '7.1um1')
            self.prepare()
            self.assertEqual('forky', self.marker()['suite'])
            self.assertIn('kernel: Debian sid has none that serves: 7.2um1 '
                          f'lacks {name}', self.said)
            kernel.discard(self.cache)

    def test_one_of_another_release(self) -> None:
        self.add_kernel('sid', script=BOOTS.replace('7.2.7', '7.2.8'))
        self.add_kernel('forky')
        self.prepare()
        self.assertEqual('forky', self.marker()['suite'])

    def test_one_that_fails_at_the_end(self) -> None:
        self.add_kernel('sid', script=f'{BOOTS}exit 3\n')
        self.add_kernel('forky')
        self.prepare()
        self.assertEqual('forky', self.marker()['suite'])

    def test_one_that_hangs(self) -> None:
        self.patch_attr('TRIAL_S', 0.5)
        child = self.folder / 'child'
        self.add_kernel('sid', script=f'{BOOTS}sleep 60 &\necho $! >{child}\n'
                                      'wait\n')
        self.add_kernel('forky')
        self.prepare()
        self.assertEqual('forky', self.marker()['suite'])
        self.assert_dead(child)

    def test_nothing_of_a_kernel_outlives_its_trial(self) -> None:
        child = self.folder / 'child'
        self.add_kernel('sid', script=f'{BOOTS}sleep 60 &\necho $! >{child}\n')
        self.prepare()
        self.assert_dead(child)

    def test_suite_that_the_mirror_lacks(self) -> None:
        self.add_kernel('trixie')
        self.prepare()
        self.assertEqual('trixie', self.marker()['suite'])
        self.assertIn('kernel: Debian forky has none that serves: 404 Not '
                      'Found [IP: 1.2.3.4]', self.said)

    def test_suite_that_a_mirror_on_disk_lacks(self) -> None:
        self.add_kernel('forky')
        (self.mirror / 'absent').write_text('File not found - /m/sid/Release')
        self.prepare()
        self.assertEqual('forky', self.marker()['suite'])

    def test_suite_that_lacks_the_package(self) -> None:
        (self.mirror / 'sid').mkdir()
        self.add_kernel('forky')
        self.prepare()
        self.assertEqual('forky', self.marker()['suite'])
        self.assertIn('kernel: Debian sid has none that serves: Unable to '
                      'locate package user-mode-linux', self.said)

    def test_offline(self) -> None:
        self.add_kernel('sid')
        (self.mirror / 'offline').touch()
        self.assertEqual(
            'cannot download user-mode Linux from Debian sid: Temporary '
            'failure resolving \'m\'; check this machine\'s network and '
            '"apt-get update"', self.fail_to_prepare())
        self.assertEqual(1, self.calls('update'))
        self.assertEqual(['lock'], self.names())

    def test_cached_one_serves_offline(self) -> None:
        self.add_kernel('sid')
        first = self.prepare()
        (self.mirror / 'offline').touch()
        self.assertEqual(first, self.prepare())

    def test_interrupted_download_leaves_nothing(self) -> None:
        self.add_kernel('sid')
        (self.mirror / 'hang').touch()
        self.press_ctrl_c(self.mirror / 'child')
        self.assert_dead(self.mirror / 'child')
        self.assertEqual(['lock'], self.names())

    def test_interrupted_trial_leaves_its_log(self) -> None:
        child = self.folder / 'child'
        self.add_kernel('sid', script=f'{BOOTS}sleep 60 &\necho $! >{child}\n'
                                      'wait\n')
        self.press_ctrl_c(child)
        self.assert_dead(child)
        self.assertEqual(['lock', 'trial.log'], self.names())

    def test_ctrl_c_while_a_program_starts(self) -> None:
        signals.heed_ctrl_c(self)
        started = []
        popen = subprocess.Popen

        def interrupted(*args, **options):
            started.append(popen(*args, **options))
            # To this thread: earlier tests may have left others.
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            return started[0]

        def start() -> None:
            with kernel._started(('sleep', '60')):
                self.fail('it was not interrupted')

        with mock.patch.object(subprocess, 'Popen', interrupted):
            self.assertRaises(KeyboardInterrupt, start)
        self.assertEqual(-signal.SIGKILL, started[0].returncode)

    def test_missing_program_names_its_package(self) -> None:
        (self.bin / 'patchelf').unlink()
        tools = self.folder / 'tools'
        tools.mkdir()
        for name in ('dpkg', 'dpkg-deb', 'setpriv', 'sh', 'cat'):
            (tools / name).symlink_to(str(shutil.which(name)))
        with mock.patch.dict(os.environ, PATH=f'{self.bin}:{tools}'):
            self.assertEqual('patchelf not found: apt-get install patchelf',
                             self.fail_to_prepare())
        self.assertEqual(['lock'], self.names())

    def test_cache_that_cannot_be(self) -> None:
        (self.folder / 'cache').write_text('')
        self.assertIn('Not a directory', self.fail_to_prepare())


class TestCache(KernelTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.add_kernel('sid')
        self.first = self.prepare()
        self.folder_of_first = next(self.cache.glob('uml-*'))

    def test_binary_that_changed(self) -> None:
        with open(self.first.binary, 'a') as file:
            file.write('#')
        self.assertNotEqual(self.first, self.prepare())
        self.assertEqual(2, self.calls('update'))
        self.assertFalse(self.folder_of_first.exists())

    def test_binary_that_is_gone(self) -> None:
        self.first.binary.unlink()
        self.assertTrue(self.prepare().binary.exists())

    def test_marker_that_is_half_written(self) -> None:
        for text in ('', '{"binary"', '{}'):
            (self.cache / kernel.MARKER).write_text(text)
            self.assertTrue(self.prepare().binary.exists())

    def test_moved_cache(self) -> None:
        self.cache.rename(self.folder / 'other')
        self.cache.mkdir()
        shutil.copy(self.folder / 'other' / kernel.MARKER, self.cache)
        self.assertIn(self.cache, self.prepare().binary.parents)

    def test_copied_cache(self) -> None:
        shutil.copytree(self.cache, self.folder / 'other')
        other = kernel.prepare(self.folder / 'other', self.said.append)
        self.assertNotIn(self.cache, other.binary.parents)

    def test_discard(self) -> None:
        kernel.discard(self.cache)
        self.assertEqual(['lock', 'trial.log'], self.names())
        self.assertNotEqual(self.first, self.prepare())

    def test_discard_without_a_cache(self) -> None:
        kernel.discard(self.folder / 'none')
        self.assertFalse((self.folder / 'none').exists())

    def test_remains_of_a_killed_process(self) -> None:
        kernel.discard(self.cache)
        (self.cache / 'uml-killed' / 'apt').mkdir(parents=True)
        (self.cache / 'other').mkdir()
        self.prepare()
        self.assertFalse((self.cache / 'uml-killed').exists())
        self.assertTrue((self.cache / 'other').exists())

    def test_two_at_once(self) -> None:
        kernel.discard(self.cache)
        # Slow enough for the second to find the first at work.
        self.add_kernel('sid', script=BOOTS + 'sleep 0.3\n')
        found: list[kernel.Kernel] = []
        threads = [threading.Thread(
            target=lambda: found.append(self.prepare())) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(found[0], found[1])
        # setUp() made the first.
        self.assertEqual(2, self.calls('update'))
        self.assertIn('kernel: waiting for another process that prepares it',
                      self.said)


class TestForbidden(KernelTestCase):
    """User-mode Linux 7.2 and 6.1 print these where they cannot run."""

    BEGIN = ('Core dump limits :\n\tsoft - 0\n\thard - NONE\n'
             'Checking environment variables for a tempdir...none found\n'
             'Checking if /dev/shm is on tmpfs...OK\n')

    def check(self, printed: str, message: str) -> None:
        text = self.folder / 'printed'
        text.write_text(printed)
        self.add_kernel('sid', script=f'#!/bin/sh\ncat {text}\nexit 1\n')
        self.add_kernel('forky')
        self.assertIn(message, self.fail_to_prepare())
        self.assertEqual(1, self.calls('update'))
        self.assertEqual(['lock', 'trial.log'], self.names())

    def test_ptrace_and_seccomp(self) -> None:
        self.check(
            self.BEGIN + 'Checking PROT_EXEC mmap in /dev/shm...OK\n'
            'Checking that seccomp filters can be installed...error\n'
            'Checking that ptrace can change system call numbers...'
            'ptrace: Operation not permitted\n'
            'check_ptrace : expected SIGSTOP, got status = 9\n',
            'this machine forbids ptrace and seccomp filters')

    def test_noexec(self) -> None:
        self.check(
            self.BEGIN + 'Checking PROT_EXEC mmap in /dev/shm...'
            'Operation not permitted\n/dev/shm must be not mounted noexec\n',
            '/dev/shm is mounted noexec, and user-mode Linux')

    def test_no_room(self) -> None:
        self.check(
            self.BEGIN + 'Checking PROT_EXEC mmap in /dev/shm...OK\n'
            'Checking that seccomp filters can be installed...OK\n'
            '<0>Kernel panic - not syncing: Kernel mode signal 7\n',
            '/dev/shm has no room for the memory of user-mode Linux')

    def test_read_only(self) -> None:
        self.check(self.BEGIN, 'cannot make the file of its memory in '
                   '/dev/shm: make')

    def test_missing_folder(self) -> None:
        self.check(
            'Checking environment variables for a tempdir.../none\n'
            'Checking if /none is on tmpfs...No such file or directory\n'
            'Warning: tempdir /none is not on tmpfs\n',
            'cannot make the file of its memory in /none: make')

    def test_cache_mounted_noexec(self) -> None:
        self.check(
            f'setpriv: failed to execute {self.cache}/linux: Permission '
            'denied\n', f'{self.cache}/linux may not run: mount')


class TestSources(KernelTestCase):

    def source(self) -> str:
        self.add_kernel('sid')
        self.prepare()
        return (self.mirror / 'source-sid').read_text()

    def native(self) -> str:
        return subprocess.run(('dpkg', '--print-architecture'), text=True,
                              capture_output=True).stdout.strip()

    def test_stanza(self) -> None:
        key = (' -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc=\n'
               ' -----END PGP PUBLIC KEY BLOCK-----\n')
        self.use_entry(
            self.folder / 'debian.sources', 2,
            f'# Debian\n\nTypes: deb\nURIs: http://other\nSuites: other\n'
            'Enabled: no\n\n \n# The one.\nTypes: deb\n deb-src\n'
            'URIs: http://m/debian\n#Signed-By: /never\n'
            'Suites: bookworm bookworm-updates\ncomponents: main contrib\n'
            'Architectures: amd64 i386\nTargets: Contents\nLanguages: en\n'
            f'Check-Valid-Until: no\nSigned-By:\n{key}')
        self.assertEqual(
            f'URIs: http://m/debian\nCheck-Valid-Until: no\nSigned-By:\n{key}'
            'Types: deb\nSuites: sid\nComponents: main\n'
            f'Architectures: {self.native()}\nLanguages: none\n'
            'Targets: Packages\n', self.source())

    def test_line(self) -> None:
        self.use_entry(
            self.folder / 'sources.list', 3,
            '# Debian\n\ndeb [ arch=amd64,i386 signed-by=/k.gpg lang=en ]'
            '  http://m/debian bookworm main contrib # it\ndeb http://b b c')
        self.assertEqual(
            f'deb [signed-by=/k.gpg arch={self.native()} lang=none '
            'target=Packages] http://m/debian sid main\n', self.source())

    def test_line_without_options(self) -> None:
        self.use_entry(self.folder / 'sources.list', 1,
                       'deb http://m/debian bookworm main')
        self.assertEqual(
            f'deb [arch={self.native()} lang=none target=Packages] '
            'http://m/debian sid main\n', self.source())

    def test_machine_without_package_lists(self) -> None:
        (self.mirror / 'no-lists').touch()
        self.assertIn('URIs: http://m\n', self.source())

    def test_machine_without_debian(self) -> None:
        (self.mirror / 'entries').write_text('noble main /a.sources:1\n')
        self.assertIn('apt on this machine has no mirror of Debian',
                      self.fail_to_prepare())


#: Makes as much of a kernel as the tests look at.
MAKE = '''#!/bin/sh
echo "$*"
cd "$2"
case "$*" in
    *alldefconfig) grep -v ^CONFIG_FAULT "$KCONFIG_ALLCONFIG" >.config ;;
    *modules_install*)
        folder=${{6#*=}}/lib/modules/7.2.7
        mkdir -p "$folder"
        cp {modules} "$folder/modules.dep"
        touch "$folder/modules.builtin" ;;
    *linux*modules) [ ! -e fails ] && cp {binary} linux ;;
esac
'''


class TestBuild(KernelTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.add_kernel('sid', script=PANICS)
        modules = self.folder / 'modules.dep'
        modules.write_text(''.join(f'kernel/{name}.ko:\n'
                                   for name in kernel.MODULES))
        self.built = self.folder / 'built'
        self.built.write_text(BOOTS)
        self.built.chmod(0o755)
        self.add_program('make', MAKE.format(modules=modules,
                                             binary=self.built))
        for name in ('gcc', 'flex', 'bison', 'bc', 'depmod'):
            self.add_program(name, '')

    def add_source(self, name: str = 'Makefile') -> None:
        tar = self.folder / 'linux-source-7.2.tar.xz'
        source = self.folder / 'linux-source-7.2'
        source.mkdir()
        (source / name).touch()
        subprocess.run(('tar', '-C', self.folder, '-cJf', tar, source.name),
                       check=True)
        self.add_deb('sid', 'linux-source', '7.2.13-1', {},
                     'Depends: linux-source-7.2 (= 7.2.13-1)\n')
        self.add_deb('sid', 'linux-source-7.2', '7.2.13-1', {})
        deb = self.mirror / 'sid' / 'linux-source-7.2_7.2.13-1_all.deb'
        # The archive cannot be written as text.
        with tempfile.TemporaryDirectory() as name:
            subprocess.run(('dpkg-deb', '-R', deb, name), check=True)
            target = pathlib.Path(name) / 'usr' / 'src'
            target.mkdir(parents=True)
            shutil.copy(tar, target)
            subprocess.run(('dpkg-deb', '-Znone', '-b', name, deb),
                           check=True, stdout=subprocess.DEVNULL)
        shutil.copytree(self.mirror / 'sid', self.mirror / 'forky')

    def test_built_when_none_boots(self) -> None:
        self.add_source()
        found = self.prepare()
        self.assertEqual(RELEASE, found.release)
        self.assertEqual(BOOTS, found.binary.read_text())
        self.assertTrue((found.modules / 'modules.dep').exists())
        self.assertEqual('7.2.13-1', self.marker()['version'])
        self.assertIn('kernel: building it, 10 to 30 minutes; the log is '
                      f'{self.cache}/build.log', self.said)
        folder = next(self.cache.glob('uml-*'))
        self.assertEqual(['lib', 'linux'], sorted(os.listdir(folder)))
        self.assertEqual(found, self.prepare())

    def test_failure_names_the_log(self) -> None:
        self.add_source('fails')
        message = self.fail_to_prepare()
        self.assertIn('Unexpected FP registers', message)
        self.assertIn(f'the log is {self.cache}/build.log', message)
        self.assertIn('alldefconfig',
                      (self.cache / 'build.log').read_text())
        self.assertEqual(['build.log', 'lock', 'trial.log'], self.names())

    def test_option_that_the_source_lacks(self) -> None:
        self.add_source()
        options = self.folder / 'options'
        options.write_text('# All.\nCONFIG_A=y\nCONFIG_FAULT=m\n')
        self.patch_attr('BUILD_OPTIONS', options)
        self.assertIn('cannot build user-mode Linux with CONFIG_FAULT=m',
                      self.fail_to_prepare())

    def test_one_that_does_not_boot_either(self) -> None:
        self.add_source()
        self.built.write_text(PANICS)
        message = self.fail_to_prepare()
        self.assertIn('nor does a build: 7.2.7 does not boot', message)
        self.assertEqual(1, sum('building' in line for line in self.said))

    def test_missing_tools(self) -> None:
        self.add_source()
        for name in ('flex', 'bison'):
            (self.bin / name).unlink()
        tools = self.folder / 'tools'
        tools.mkdir()
        for name in ('dpkg', 'dpkg-deb', 'setpriv', 'sh', 'cat', 'cp', 'sed',
                     'tar', 'rm', 'xz'):
            (tools / name).symlink_to(str(shutil.which(name)))
        with mock.patch.dict(os.environ, PATH=f'{self.bin}:{tools}'):
            self.assertIn('nor does a build: flex, bison not found: apt-get '
                          'install bison flex', self.fail_to_prepare())

    def test_mirror_without_the_source(self) -> None:
        self.assertIn('nor does a build: no suite has the source',
                      self.fail_to_prepare())
