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
"""Unified diffs as git writes them, applied exactly or not at all.

``patch`` and ``git apply`` search for a hunk's context when it is not where
the hunk says. With one line of context that finds wrong places, so nothing
here searches: a hunk fits at its own line or :class:`HunkError` is raised.
Everything is bytes, because a line of upstream's may be in any encoding.
"""

import dataclasses
import hashlib
import re

NO_BLOB = '0' * 40

_HUNK = re.compile(rb'@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@')
_INDEX = re.compile(rb'index ([0-9a-f]{40})\.\.([0-9a-f]{40})(?: (\d{6}))?$')


class DiffError(ValueError):
    """A diff that is not one; the message says what and where."""


class HunkError(Exception):
    """A hunk that does not fit.

    :ivar hunk: which one, from 1
    :ivar line: the line of the file, from 1, that is not what it should be
    """

    def __init__(self, hunk: int, line: int) -> None:
        super().__init__(f'hunk {hunk}, line {line}')
        self.hunk = hunk
        self.line = line


@dataclasses.dataclass(frozen=True)
class Hunk:
    """One ``@@`` block: where it begins, and its lines with their sign."""

    start: int
    lines: tuple[bytes, ...]

    @property
    def old(self) -> list[bytes]:
        return [line[1:] for line in self.lines if line[:1] in b' -']

    @property
    def new(self) -> list[bytes]:
        return [line[1:] for line in self.lines if line[:1] in b' +']

    @property
    def changed(self) -> int:
        """How many lines it adds and removes."""
        return sum(line[:1] != b' ' for line in self.lines)

    @property
    def context(self) -> int:
        """The longer of the context before its first and after its last."""
        edits = [i for i, line in enumerate(self.lines) if line[:1] != b' ']
        return max(edits[0], len(self.lines) - 1 - edits[-1]) if edits else 0


@dataclasses.dataclass(frozen=True)
class FileDiff:
    """What a patch does to one file.

    ``old`` and ``new`` are blob ids: :data:`NO_BLOB` for a file that is not
    there before or after, empty when only the mode changes.
    """

    path: str
    old: str = ''
    new: str = ''
    executable: bool | None = None
    hunks: tuple[Hunk, ...] = ()
    text: bytes = dataclasses.field(default=b'', repr=False, compare=False)

    @property
    def adds(self) -> bool:
        return self.old == NO_BLOB

    @property
    def deletes(self) -> bool:
        return self.new == NO_BLOB


def blob_id(data: bytes) -> str:
    """The id git gives to a file with these bytes."""
    return hashlib.sha1(b'blob %d\0' % len(data) + data).hexdigest()


def split_lines(data: bytes) -> list[bytes]:
    """Lines with their ends; only a newline ends one, unlike splitlines()."""
    return re.findall(rb'[^\n]*\n|[^\n]+', data)


def apply_hunks(hunks: tuple[Hunk, ...], data: bytes) -> bytes:
    """The file after the hunks.

    :raises HunkError: a line is not the one that the hunk says it is
    """
    lines = split_lines(data)
    result: list[bytes] = []
    done = 0
    for number, hunk in enumerate(hunks, 1):
        # A hunk with nothing old stands after the line that it names.
        begin = hunk.start - 1 if hunk.old else hunk.start
        if begin < done or begin > len(lines):
            raise HunkError(number, hunk.start)
        for offset, line in enumerate(hunk.old):
            at = begin + offset
            if at >= len(lines) or lines[at] != line:
                raise HunkError(number, at + 1)
        result += lines[done:begin] + hunk.new
        done = begin + len(hunk.old)
    return b''.join(result + lines[done:])


def parse(data: bytes) -> list[FileDiff]:
    """The files of a diff made by ``git … --full-index``.

    :raises DiffError: renames, binary files, short blob ids, cut-off hunks
    """
    lines = split_lines(data)
    # Every line of a hunk begins with a sign, so none looks like a header.
    starts = [i for i, line in enumerate(lines)
              if line.startswith(b'diff --git ')]
    ends = starts[1:] + [len(lines)]
    return [_parse_file(lines[begin:end])
            for begin, end in zip(starts, ends)]


def _parse_file(lines: list[bytes]) -> FileDiff:
    header = lines[0].rstrip(b'\n')
    path = _path(header)
    old = new = ''
    executable = None
    position = 1
    while position < len(lines) and not lines[position].startswith(b'@@'):
        line = lines[position].rstrip(b'\n')
        position += 1
        if match := _INDEX.match(line):
            old, new = match[1].decode(), match[2].decode()
        elif line.startswith(b'index '):
            raise DiffError(f'{path}: short blob ids; use --full-index')
        elif line.startswith((b'new mode ', b'new file mode ')):
            executable = _executable(path, line.split()[-1])
        elif line.startswith((b'rename ', b'copy ', b'similarity ')):
            raise DiffError(f'{path}: a rename; use --no-renames')
        elif line.startswith((b'Binary files ', b'GIT binary patch')):
            raise DiffError(f'{path}: a binary file; add a new one instead')
    hunks = _parse_hunks(path, lines[position:])
    return FileDiff(path, old, new, executable, hunks, b''.join(lines))


def _path(header: bytes) -> str:
    # With neither renames nor quoting both halves are the same path.
    both = header[len(b'diff --git '):].decode('utf-8', 'surrogateescape')
    half = (len(both) - 1) // 2
    before, after = both[:half], both[half + 1:]
    if before[:2] != 'a/' or after[:2] != 'b/' or before[2:] != after[2:]:
        raise DiffError(f'not a file header: {header!r}')
    return before[2:]


def _executable(path: str, mode: bytes) -> bool:
    if mode not in (b'100644', b'100755'):
        raise DiffError(f'{path}: mode {mode.decode()} is not that of a file')
    return mode == b'100755'


def _parse_hunks(path: str, lines: list[bytes]) -> tuple[Hunk, ...]:
    hunks: list[Hunk] = []
    position = 0
    while position < len(lines):
        match = _HUNK.match(lines[position])
        if not match:
            # A mail's signature, or the blank line that ends it.
            break
        position += 1
        body, position = _hunk_body(path, match, lines, position)
        hunks.append(Hunk(int(match[1]), tuple(body)))
    return tuple(hunks)


def _hunk_body(path: str, match: re.Match[bytes], lines: list[bytes],
               position: int) -> tuple[list[bytes], int]:
    old = int(match[2] if match[2] is not None else 1)
    new = int(match[4] if match[4] is not None else 1)
    body: list[bytes] = []
    while old or new:
        line = lines[position] if position < len(lines) else b''
        if line[:1] not in (b' ', b'-', b'+'):
            raise DiffError(f'{path}: the hunk at line {match[1].decode()} '
                            f'is cut off')
        old -= line[:1] in b' -'
        new -= line[:1] in b' +'
        position += 1
        if position < len(lines) and lines[position].startswith(b'\\'):
            line = line.removesuffix(b'\n')
            position += 1
        body.append(line)
    return body, position
