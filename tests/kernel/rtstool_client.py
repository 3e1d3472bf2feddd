#!/usr/bin/python3 -S
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
"""cinder-rtstool of the storage guest: run by the Python server there.

As a Python of its own it takes an emulated CPU 6 s, and Cinder calls it ten
times for a volume.
"""

import json
import socket
import sys


def main() -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect('/run/rig/python')
        stream = connection.makefile('rw')
        request = {'function': 'tests.kernel.lvm:rtstool',
                   'args': [sys.argv[1:]], 'kwargs': {}}
        stream.write(json.dumps(request) + '\n')
        stream.flush()
        stream.readline()  # its process id
        answer = json.loads(stream.readline())
    if 'raised' in answer:
        sys.exit(answer['traceback'])
    sys.stdout.write(answer['value']['stdout'])
    return answer['value']['code']


if __name__ == '__main__':
    sys.exit(main())
