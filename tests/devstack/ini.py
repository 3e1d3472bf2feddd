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
"""INI files for devstack.sh: set, get, has or delete one option."""

import configparser
import pathlib
import sys


def main(action: str, file: str, section: str, option: str,
         value: str = '') -> int:
    parser = configparser.RawConfigParser(default_section='no section',
                                          strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    path = pathlib.Path(file)
    parser.read(path)
    if action == 'get':
        print(parser.get(section, option, fallback=''))
        return 0
    if action == 'has':
        return 0 if parser.has_option(section, option) else 1
    if action == 'set':
        if not parser.has_section(section):
            parser.add_section(section)
        parser.set(section, option, value)
    elif parser.has_section(section):
        parser.remove_option(section, option)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as stream:
        parser.write(stream)
    return 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
