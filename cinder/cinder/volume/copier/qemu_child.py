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

"""Programs of QEMU's, as children of this process.

- Passwords are each in a pipe that the child inherits: no command line,
  environment or file holds them.
- Another pipe tells the child's kernel when this process has ended. The usual
  means (PR_SET_PDEATHSIG, setpriv) kills the child when the *thread* that
  started it ends, and a thread of a pool may end before a copy does.
"""

import collections.abc
import contextlib
import fcntl
import os
import re
import signal
import subprocess
import tempfile
import typing as ty

from cinder import exception
from cinder.i18n import _

Secrets: ty.TypeAlias = dict[str, str | bytes]
#: A pipe holds at least this much before anyone reads from it.
SECRET_BYTES = 4096
#: Of the child's malloc. By default it gives buffers back to the kernel and
#: takes them again; a LUN was read at two thirds of the speed.
_MALLOC = {'MALLOC_MMAP_THRESHOLD_': str(32 << 20),
           'MALLOC_TRIM_THRESHOLD_': str(32 << 20)}
_PACKAGES = {'qemu-storage-daemon': 'qemu-system-common',
             'qemu-img': 'qemu-utils'}


class Failed(exception.CinderException):
    message = _('QEMU cannot open %(name)s: %(reason)s')


class Child:
    """A running program.

    :ivar name: of what it opens, for messages
    """

    #: Whether what it prints is of interest, and not only its errors.
    prints = False

    def __init__(self, program: str, name: str, secrets: Secrets,
                 arguments: list[str],
                 descriptors: collections.abc.Sequence[int] = ()) -> None:
        """Start it.

        :param secrets: become secret objects of these ids
        :param descriptors: what else it inherits
        :raises: Failed
        """
        self.name = name
        self._program = program
        objects = []
        with (contextlib.ExitStack() as kept,
              contextlib.ExitStack() as inherited):
            # Read only if needed; a pipe that nobody reads could fill up.
            self._output = kept.enter_context(tempfile.TemporaryFile())
            watched, life = os.pipe()
            kept.callback(os.close, life)
            inherited.callback(os.close, watched)
            descriptors = [*descriptors, watched]
            for key, value in secrets.items():
                pipe = inherited.enter_context(_pipe_with(value))
                descriptors.append(pipe)
                objects += ['--object',
                            f'secret,id={key},file=/dev/fd/{pipe}']
            self.process = self._run(objects, arguments, descriptors)
            try:
                _kill_at_end_of(watched, self.process.pid)
            except BaseException:
                self.process.kill()
                self.process.wait()
                raise
            self._kept = kept.pop_all()

    def _run(self, objects: list[str], arguments: list[str],
             descriptors: list[int]) -> subprocess.Popen:
        try:
            return subprocess.Popen(
                self.command(objects, arguments), stdin=subprocess.DEVNULL,
                stdout=self._output if self.prints else subprocess.DEVNULL,
                stderr=self._output,
                pass_fds=descriptors, env=os.environ | _MALLOC)
        except OSError as error:
            raise Failed(name=self.name, reason=_(
                '%(program)s: %(why)s (package %(package)s on Debian and '
                'Ubuntu)') % {'program': self._program,
                              'why': error.strerror,
                              'package': _PACKAGES.get(self._program)})

    def command(self, objects: list[str], arguments: list[str]) -> list[str]:
        return [self._program, *objects, *arguments]

    def said(self) -> str:
        """What it has printed."""
        length = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), length, 0).decode(
            errors='replace')

    def reason(self) -> str:
        """Why it failed, if it said so."""
        text = ' '.join(self.said().split())
        # Without the program, and the JSON that it was given.
        text = re.sub(self._program + r': (--\w+ (\{.*\}|\S*): )?', '', text)
        return text.removeprefix('iSCSI: ')

    def await_exit(self, timeout: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)

    def kill(self) -> None:
        """End it, whatever it does, and forget it; to be called once."""
        try:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        finally:
            self._kept.close()


@contextlib.contextmanager
def _pipe_with(value: str | bytes) -> collections.abc.Iterator[int]:
    """The end of a pipe to read `value` from."""
    reader, writer = os.pipe()
    try:
        with open(writer, 'wb') as pipe:
            pipe.write(value.encode() if isinstance(value, str) else value)
        yield reader
    finally:
        os.close(reader)


def _kill_at_end_of(reader: int, process: int) -> None:
    """Have a process killed when the last writer of a pipe is gone.

    The process must have inherited `reader`: this is kept by the open pipe,
    not by the process that asks for it.
    """
    fcntl.fcntl(reader, fcntl.F_SETOWN, process)
    fcntl.fcntl(reader, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(reader, fcntl.F_GETFL)
    fcntl.fcntl(reader, fcntl.F_SETFL, flags | os.O_ASYNC)
