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
"""A small Sphinx project with the docs' own extension."""

import pathlib
import subprocess
import sys
import textwrap

#: What of doc/source/conf.py the pages of a test need.
CONF = '''
extensions = ['blockpath.docs.sphinxext', 'oslo_config.sphinxext']
nitpicky = True
'''


class Project:
    """Pages in a folder, built as text with warnings as errors."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._source = folder / 'source'
        self._built = folder / 'built'
        self._source.mkdir()
        (self._source / 'conf.py').write_text(CONF)

    def write(self, text: str) -> None:
        (self._source / 'index.rst').write_text(
            f'Page\n====\n\n{textwrap.dedent(text)}')

    def build(self) -> tuple[int, str]:
        """The exit code, and what was said of it on stderr."""
        ended = subprocess.run(
            [sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-b',
             'text', str(self._source), str(self._built)],
            capture_output=True, text=True)
        return ended.returncode, ended.stderr

    def text(self) -> str:
        return (self._built / 'index.txt').read_text()
