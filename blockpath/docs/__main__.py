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
"""``python -m blockpath.docs``: build doc/source into build/docs/html."""

import sys

from sphinx.cmd import build

from blockpath import paths

SOURCE = paths.ROOT / 'doc' / 'source'
BUILT = paths.BUILD / 'docs'


def main() -> int:
    """0 when there was no warning either."""
    return build.main([
        '-W', '--keep-going', '-E', '-b', 'html',
        '-d', str(BUILT / 'doctrees'), str(SOURCE), str(BUILT / 'html')])


if __name__ == '__main__':
    sys.exit(main())
