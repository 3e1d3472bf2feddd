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
"""What runs in threads of the operating system."""

import _queue
import _thread
import threading

from cinder.tests.unit import test
from cinder.tests.unit.volume.copier import fakes
from cinder import utils
from cinder.volume.copier import native


class NativeTestCase(test.TestCase):

    def test_a_call(self):
        self.assertEqual(3, native.call(lambda a, b: a + b, 1, 2))
        self.assertEqual(utils.concurrency_mode_threading(),
                         _thread.get_native_id() == native.call(
                             _thread.get_native_id))
        self.assertRaises(ZeroDivisionError, native.call, lambda: 1 / 0)

    def test_copies_leave_threads_to_others(self):
        running, most = _queue.SimpleQueue(), []

        class Slow(fakes.MemoryFile):

            def _read_at(self, offset, length):
                running.put(1)
                most.append(running.qsize())
                try:
                    _queue.SimpleQueue().get(True, 0.1)
                except _queue.Empty:
                    running.get()
                return super()._read_at(offset, length)

        self.mock_object(native, '_turns',
                         return_value=threading.Semaphore(2))
        threads = [threading.Thread(target=native.copy, args=(
            Slow(b'x'), fakes.MemoryFile(b'y'), 1)) for __ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((6, 2), (len(most), max(most)))

    def test_half_of_the_threads(self):
        turns = native._turns.__wrapped__()
        for __ in range(10):
            self.assertTrue(turns.acquire(blocking=False))
        self.assertFalse(turns.acquire(blocking=False))
