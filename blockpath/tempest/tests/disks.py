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
"""A disk in a guest, used by ssh with what every small Linux has."""

import time
from typing import Any

_RECORD = 512
#: Writes blocks that hold their own number, one after another, each flushed,
#: as long as the file is there; notes how many beside it.
_WRITER = (
    'n=0; while [ -e {run}/writing ]; do '
    'printf %{digits}d\\\\n $n | dd of={disk} bs={size} seek=$n '
    'conv=notrunc,fsync 2>/dev/null || {{ touch {run}/failed; break; }}; '
    'n=$((n+1)); echo $n > {run}/count.new; mv {run}/count.new {run}/count; '
    'done; echo end > {run}/ended')
#: Counts the blocks that do not hold their own number.
_CHECK = ('awk \'length($0) != {digits} || $0 + 0 != NR - 1 {{ bad++ }} '
          'END {{ print NR, bad + 0 }}\'')


class WriterError(Exception):
    """What is on the disk is not what was written."""


class GuestDisk:
    """A disk in a guest.

    :param client: tempest's RemoteClient
    :param name: as ``vdb``
    """

    #: In memory in every guest: it must neither be on the disk nor slow.
    RUN = '/run/blockpath'

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self.path = f'/dev/{name}'

    def _run(self, script: str) -> str:
        quoted = script.replace("'", "'\\''")
        return self._client.exec_command(f"sudo sh -c '{quoted}'").strip()

    def fill(self, mebibytes: int) -> None:
        """Write random data: at the begin, the end, and in between.

        Some of it begins and ends where no block of a copy does.
        """
        random = f'dd if=/dev/urandom of={self.path} conv=notrunc,fsync'
        sectors = int(self._run(f'cat /sys/block/{self.path[5:]}/size'))
        self._run(f'{random} bs=1024k count=1 2>/dev/null')
        self._run(f'{random} bs=512 seek={sectors - 3} count=3 2>/dev/null')
        self._run(f'{random} bs=512 seek=16381 count=5 2>/dev/null')
        self._run(f'{random} bs=1024k seek=64 count={mebibytes} 2>/dev/null')

    def digest(self) -> str:
        """Of every byte of the disk, read from the disk."""
        self._forget()
        return self._run(f'md5sum {self.path}').split()[0]

    def _forget(self) -> None:
        """Have the guest's kernel forget what it knows of the disk."""
        self._run('sync; echo 3 > /proc/sys/vm/drop_caches')

    # A writer ------------------------------------------------------------

    def start_writer(self) -> None:
        script = _WRITER.format(run=self.RUN, disk=self.path, size=_RECORD,
                                digits=_RECORD - 1)
        self._run(f'rm -rf {self.RUN}; mkdir -p {self.RUN}; '
                  f'touch {self.RUN}/writing')
        self._run(f'printf "%s" "{_escaped(script)}" > {self.RUN}/writer')
        self._run(f'setsid sh {self.RUN}/writer >/dev/null 2>&1 </dev/null &')

    def written(self) -> int:
        """How many blocks the writer has written until now."""
        return int(self._run(f'cat {self.RUN}/count 2>/dev/null || echo 0'))

    def wait_written(self, more_than: int, seconds: float = 60) -> int:
        """Wait until the writer has got on.

        :raises WriterError: it did not
        """
        deadline = time.monotonic() + seconds
        while (count := self.written()) <= more_than:
            if time.monotonic() > deadline:
                raise WriterError(f'in {seconds:.0f} s nothing was written '
                                  f'after {count} blocks')
            time.sleep(1)
        return count

    def stop_writer(self) -> int:
        """End the writer.

        :returns: how many blocks it has written
        :raises WriterError: a write failed
        """
        self._run(f'rm {self.RUN}/writing; until [ -e {self.RUN}/ended ]; '
                  'do sleep 1; done')
        if self._run(f'ls {self.RUN}/failed 2>/dev/null || true'):
            raise WriterError(f'the write after {self.written()} blocks '
                              'failed')
        return self.written()

    def check_written(self, blocks: int) -> None:
        """Read what the writer wrote from the disk.

        :raises WriterError: a block is missing or holds something else
        """
        self._forget()
        check = _CHECK.format(digits=_RECORD - 1)
        found = self._run(f'dd if={self.path} bs={_RECORD} count={blocks} '
                          f'2>/dev/null | {check}')
        if found != f'{blocks} 0':
            raise WriterError(
                f'{blocks} blocks were written; blocks read, and wrong ones '
                f'among them: {found}')


def _escaped(text: str) -> str:
    """For a string in double quotes of the shell."""
    for character in '\\"$`':
        text = text.replace(character, f'\\{character}')
    return text
