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

"""Copies made by QEMU alone, from a LUN or to one.

QEMU's initiator is used by way of an NBD server. That costs half of what the
whole copy does (``blockpath bench copy``), which ``qemu-img`` saves by opening
both ends itself. What it cannot do is left to the engine: a limit that copies
share, checkpoints, going on from one, and verifying.
"""

import _queue
import contextlib
import re
import subprocess
import time

from oslo_serialization import jsonutils

from cinder.i18n import _
from cinder.volume.copier import engine
from cinder.volume.copier import qemu_child
from cinder.volume.copier import volume_file

_PROGRAM = 'qemu-img'
#: Zeros are left out in runs of this size.
_GRAIN = 64 << 10
#: QEMU takes at most so many requests at once here, each of 2 MiB, or of what
#: a LUN says to suit it, up to 16 MiB.
_IN_FLIGHT = 16
#: What moves in a tick, at least, if anything does: a request for zeros. While
#: nothing does QEMU wakes itself up now and then, for a few bytes each time.
_ALIVE = 512
#: How often to ask how far it is, and whether to go on. Seconds.
_TICK = 0.2
#: How often to see whether it has ended.
_PAUSE = 0.01
_OPENED = re.compile(r"Could not open 'json:\{.*\}': ")
_PERCENT = re.compile(r'\((\d+\.\d+)/100%\)')


class Unable(engine.CopyError):
    """QEMU did not begin; another may try."""


def suits(source: volume_file.VolumeFile, destination: volume_file.VolumeFile,
          options: engine.Options) -> bool:
    """Whether QEMU should make this copy."""
    ends = source.qemu, destination.qemu
    return (all(ends) and
            any(end[0]['driver'] == 'iscsi' for end in ends if end) and
            not (options.start or options.limiter or options.checkpoint) and
            options.verify is engine.Verify.NONE)


def copy(source: volume_file.VolumeFile, destination: volume_file.VolumeFile,
         length: int, options: engine.Options = engine.Options(),
         progress: engine.Progress | None = None) -> engine.Progress:
    """Copy the first `length` bytes, as :func:`.engine.copy` does.

    How many of them are written, and how many left out, is not known.

    :raises: Unable; CopyError or an OSError
        (:class:`volume_file.VolumeIOError`)
    """
    engine.check_sizes(source, destination, length)
    progress = progress or engine.Progress()
    progress.length, progress.written = length, None
    is_zero = engine.reads_as_zeros(destination, length, options)
    arguments, secrets = _command(source, destination, length, is_zero,
                                  options)
    name = f'{source.name} -> {destination.name}'
    try:
        child = _Convert(_PROGRAM, name, secrets, arguments)
    except qemu_child.Failed as error:
        raise Unable(str(error))
    try:
        _await(child, length, options, progress)
    except BaseException:
        child.kill()
        for file in (source, destination):
            file.killed_beside()
        raise
    child.kill()
    source.check()
    destination.written_past()
    destination.flush()
    progress.done = length
    return progress


class _Convert(qemu_child.Child):
    """A running qemu-img."""

    prints = True

    def command(self, objects: list[str], arguments: list[str]) -> list[str]:
        return [self._program, 'convert', '-p', *objects, *arguments]

    def percent(self) -> float:
        """How far it is; it tells in steps of one."""
        told = _PERCENT.findall(self.said())
        return float(told[-1]) if told else 0.0

    def moved(self) -> int | None:
        """How many bytes it has read and written, by files and by iSCSI.

        :returns: None if it has ended, or if the kernel does not count
        """
        try:
            with open(f'/proc/{self.process.pid}/io') as figures:
                return sum(int(line.split()[1]) for line in figures
                           if line.startswith(('rchar', 'wchar')))
        except OSError:
            return None

    def reason(self) -> str:
        text = _PERCENT.sub('', super().reason())
        return ' '.join(_OPENED.sub('', text).split())


def _command(source: volume_file.VolumeFile,
             destination: volume_file.VolumeFile, length: int, is_zero: bool,
             options: engine.Options
             ) -> tuple[list[str], qemu_child.Secrets]:
    arguments = [
        # In any order, past any cache. As many as the engine has blocks were a
        # twentieth faster, and took a tenth more memory.
        '-n', '-W', '-m', str(max(1, min(options.in_flight * 3 // 4,
                                         _IN_FLIGHT))),
        '-S', str(_GRAIN), '-t', 'none', '-T', 'none', '-f', 'raw',
        '-O', 'raw', *(['--target-is-zero'] if is_zero else [])]
    secrets: qemu_child.Secrets = {}
    for file, role in ((source, 'source'), (destination, 'destination')):
        node, own = file.qemu or ({}, {})
        node = dict(node)
        for key, value in node.items():
            if key.endswith('-secret'):
                node[key] = f'{role}-{value}'
        if role == 'destination' and node.get('driver') == 'iscsi':
            # It flushes when it ends, and ignores an error, which the target
            # may tell only once: that must be to the flush that counts.
            node['cache'] = {'direct': True, 'no-flush': True}
        secrets |= {f'{role}-{key}': value for key, value in own.items()}
        arguments.append('json:' + jsonutils.dumps(
            {'driver': 'raw', 'size': length, 'file': node}))
    return arguments, secrets


def _await(child: _Convert, length: int, options: engine.Options,
           progress: engine.Progress) -> None:
    """Wait until it ends.

    :raises: CopyError; Unable if it failed before a hundredth was copied,
        most likely as it could not open an end
    """
    percent, moved, last = 0.0, 0, time.monotonic()
    while child.process.poll() is None:
        if options.cancelled():
            raise engine.Cancelled(_('the copy was told to stop'))
        before, percent = percent, child.percent()
        counted = child.moved()
        if percent > before or counted is None or counted - moved >= _ALIVE:
            last = time.monotonic()
            progress.done = int(length * percent / 100)
        elif options.stall and time.monotonic() - last > options.stall:
            raise engine.CopyError(
                _('nothing was read or written for %d s') % options.stall)
        moved = counted or 0
        _await_end(child.process, _TICK)
    if child.process.returncode:
        # By a signal, it was made to end.
        begun = child.percent() or child.process.returncode < 0
        failure = engine.CopyError if begun else Unable
        raise failure(_('copying %(name)s failed: %(reason)s') % {
            'name': child.name,
            'reason': child.reason() or child.process.returncode})


def _await_end(process: subprocess.Popen, seconds: float) -> None:
    """Wait that long, or until a process ends."""
    # Unlike time.sleep and select, never eventlet's.
    clock: _queue.SimpleQueue = _queue.SimpleQueue()
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(_queue.Empty):
            clock.get(True, _PAUSE)
