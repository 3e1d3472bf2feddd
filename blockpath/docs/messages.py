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
"""Whether a message that the docs quote is one of the series'.

What varies stands as an ellipsis: ``no answer within … seconds``.
"""

import ast
from collections.abc import Iterator
import functools
import re

from blockpath import paths
from blockpath.series import model
from blockpath.series import trees

VARIES = '…'
_FORMAT = re.compile(r'%(?:\([a-z_]+\))?[.0-9]*[sdrgfx]|\{[^{}]*\}')


def is_ours(quoted: str) -> bool:
    """Whether a file that the series adds or changes has such a message."""
    return any(quoted in message for message in known())


@functools.cache
def known() -> frozenset[str]:
    """The strings in the code that the series adds or changes."""
    series = model.Series(paths.ROOT)
    return frozenset(message for tree in series.trees()
                     for source in _sources(series, tree)
                     for message in strings(source))


def _sources(series: model.Series, tree: str) -> Iterator[str]:
    repository = trees.open_tree(series, tree, series.default)
    changed = repository.text('diff', '--name-only', '--diff-filter=AM',
                              trees.BASE, 'HEAD', '--', '*.py')
    for path in changed.splitlines():
        if '/tests/' not in path:
            yield (repository.folder / path).read_text('utf-8')


def strings(source: str) -> Iterator[str]:
    """The strings of a module, with what they are formatted with left out."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield _FORMAT.sub(VARIES, node.value)
        elif isinstance(node, ast.JoinedStr):
            yield ''.join(str(part.value) if isinstance(part, ast.Constant)
                          else VARIES for part in node.values)
