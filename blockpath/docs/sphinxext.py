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
"""What the docs ask of Sphinx beside its own extensions.

``.. reno-notes:: TREE`` shows the release notes of a tree. The role
``message`` quotes what the code says. A quotation that no code has, and a
sample or a mention of a command or an option that does not exist, is a
warning, which fails the build.
"""

from typing import Any

from docutils import nodes
from docutils.parsers import rst
from docutils import statemachine
from sphinx import application
from sphinx.util import docutils
from sphinx.util import logging
from sphinx.util import nodes as sphinx_nodes

from blockpath.docs import commands
from blockpath.docs import messages
from blockpath.docs import notes
from blockpath.docs import settings
from blockpath import paths
from blockpath.series import model

LOG = logging.getLogger(__name__)


class MessageRole(docutils.SphinxRole):
    """Quotes a message of the series' code, an ellipsis for what varies."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        quoted = ' '.join(self.text.split())
        if not messages.is_ours(quoted):
            LOG.warning('nothing in the series says: %s', quoted,
                        location=self.get_location())
        return [nodes.literal(self.rawtext, quoted, classes=['message'])], []


class NotesDirective(rst.Directive):
    """The release notes of a tree."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        tree = self.arguments[0]
        lines = statemachine.StringList(
            notes.report(model.Series(paths.ROOT), tree).splitlines(),
            f'{tree}/releasenotes')
        node = nodes.section(document=self.state.document)
        sphinx_nodes.nested_parse_with_titles(self.state, lines, node)
        return node.children


def check(app: application.Sphinx, document: nodes.document) -> None:
    """Warn of samples that say what does not exist."""
    del app
    for node in document.findall(nodes.literal_block):
        text = node.astext()
        if node.get('language') == 'ini':
            _warn(node, settings.problems(text))
        else:
            _warn(node, commands.problems(text))
    for literal in document.findall(nodes.literal):
        # One that goes on in the next line is one command.
        text = ' '.join(literal.astext().split())
        _warn(literal, commands.problems(text, whole=False))


def _warn(node: nodes.Element, problems: list[str]) -> None:
    for problem in problems:
        LOG.warning('%s', problem, location=node)


def setup(app: application.Sphinx) -> dict[str, Any]:
    app.add_role('message', MessageRole())
    app.add_directive('reno-notes', NotesDirective)
    app.connect('doctree-read', check)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
