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
"""Patches as git mails: a message, its author, and a diff."""

import dataclasses
import email.header
import email.parser
import email.policy
import email.utils
import re

from blockpath.series import diff

_PREFIX = re.compile(r'^\s*\[PATCH[^]]*\]\s*')
#: Where git stops reading a message and looks for the diff.
_BREAK = re.compile(rb'^(?:diff -|Index: |---(?:\s|$))', re.M)


class MailError(ValueError):
    """A mail that git would not apply; the message says why."""


@dataclasses.dataclass(frozen=True)
class Mail:
    """A patch mail. ``date`` is RFC 2822, as git writes and reads it."""

    name: str
    address: str
    date: str
    message: str
    diffs: tuple[diff.FileDiff, ...]
    #: All that stands before the diff, to be written back as it was.
    head: bytes = dataclasses.field(default=b'', repr=False, compare=False)
    tail: bytes = dataclasses.field(default=b'', repr=False, compare=False)

    @property
    def subject(self) -> str:
        return self.message.partition('\n')[0]

    @property
    def body(self) -> str:
        return self.message.partition('\n')[2].strip('\n')


def parse(data: bytes) -> Mail:
    """Read a mail that ``git format-patch`` wrote.

    :raises MailError: no author, date or subject
    :raises diff.DiffError: a diff that cannot be applied exactly
    """
    headers, blank, rest = data.partition(b'\n\n')
    if not headers.startswith(b'From ') or not blank:
        raise MailError('not a git mail: it begins with no "From " line')
    _, _, headers = headers.partition(b'\n')
    fields = email.parser.BytesParser(policy=email.policy.compat32).parsebytes(
        headers + b'\n\n', headersonly=True)
    name, address = email.utils.parseaddr(_field(fields, 'From'))
    subject = _PREFIX.sub('', _field(fields, 'Subject'))
    date = _field(fields, 'Date')
    if '@' not in address or not subject or not date:
        raise MailError('a mail needs From, Date and Subject')
    match = _BREAK.search(rest)
    body = rest[:match.start() if match else None].decode('utf-8', 'replace')
    body = body.strip('\n')
    message = f'{subject}\n\n{body}\n' if body else f'{subject}\n'
    head = head_of(data)
    tail = data[len(head):]
    return Mail(name, address, date, message, tuple(diff.parse(tail)), head,
                tail)


def head_of(data: bytes) -> bytes:
    """All of a mail that stands before its diff."""
    blank = data.find(b'\n\n') + 1
    match = _BREAK.search(data, blank)
    if not match:
        return data
    at = data.find(b'diff --git ', match.start())
    return data[:at] if at >= 0 else data


def _field(fields: 'email.message.Message[str, str]', name: str) -> str:
    value = re.sub(r'\r?\n[ \t]+', ' ', str(fields.get(name, '')))
    decoded = email.header.make_header(email.header.decode_header(value))
    return str(decoded).strip()
