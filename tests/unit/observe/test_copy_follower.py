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
"""What is made of Cinder's words and of what is seen of a copy.

That Cinder tells them is seen by the scenario 'copying'.
"""

import types

from oslo_config import cfg
import oslo_messaging

from blockpath.machine import errors
from blockpath.machine import wait
from blockpath.observe import copy_follower
from blockpath.observe import plots
from tests.unit import lab_base

MIB = 1 << 20
TOLD = {'phase': 'copying', 'done': 480 * MIB, 'length': 1024 * MIB,
        'written': 120 * MIB, 'rate': 96 * MIB, 'left': 6}


class TestListener(lab_base.LabTest):

    def setUp(self) -> None:
        super().setUp()
        path = self.site.etc / 'control' / 'cinder.conf'
        path.parent.mkdir()
        path.write_text('[DEFAULT]\ntransport_url = fake://\n')

    def notifier(self) -> oslo_messaging.Notifier:
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[])
        oslo_messaging.set_transport_defaults('cinder')
        return oslo_messaging.Notifier(
            oslo_messaging.get_notification_transport(conf, 'fake://'),
            'volume.storage@rbd', driver='messagingv2',
            topics=['notifications'])

    def test_hears_of_copies_only_and_of_which(self) -> None:
        notifier = self.notifier()
        one, two = (types.SimpleNamespace(id=name) for name in 'ab')
        with copy_follower.Listener(self.site) as listener:
            notifier.info({}, 'volume.create.end', {'volume_id': 'a'})
            for name in 'ab':
                notifier.info({}, 'volume.migrate.progress', {
                    'volume_id': name, 'progress': TOLD})
            wait.until(lambda: listener.words(two), 'the last word', 20)
            words = listener.words(one)
            self.assertEqual(1, len(words))
            self.assertEqual([], listener.words(one, words[0].at + 1))

    def test_rate_is_of_what_was_written(self) -> None:
        word = copy_follower.word(7.0, TOLD)
        self.assertEqual((7.0, 480 * MIB, 120 * MIB, 5.0, 24 * MIB),
                         (word.at, word.done, word.written, word.seconds,
                          word.rate))
        self.assertEqual(0.0, copy_follower.word(7.0, TOLD | {
            'done': 0, 'written': 0, 'rate': 0}).rate)


class TestGrowth(lab_base.LabTest):

    def test_ends_with_the_volume(self) -> None:
        sizes = [0, 5, 9]

        def allocated(volume: object) -> int:
            if not sizes:
                raise errors.LabError('no such image')
            return sizes.pop(0)

        holdings = types.SimpleNamespace(allocated=allocated)
        growth = copy_follower.Growth(holdings,  # type: ignore[arg-type]
                                      object())
        self.assertEqual(0, growth.stored)
        with growth:
            wait.until(lambda: not growth._thread.is_alive(), 'the end', 20)
        self.assertEqual([0, 5, 9], [size for _, size in growth.samples])
        self.assertEqual(9, growth.stored)


class TestRates(lab_base.LabTest):

    def test_over_a_window(self) -> None:
        samples = [(0.0, 0), (0.5, 10), (1.0, 10), (1.6, 40), (2.0, 40)]
        self.assertEqual([(1.0, 10.0), (1.6, 30 / 1.1), (2.0, 30.0)],
                         copy_follower.rates(samples, 1.0))

    def test_nothing_to_tell_of(self) -> None:
        self.assertEqual([], copy_follower.rates([], 1.0))
        self.assertEqual([], copy_follower.rates([(0.0, 0), (0.9, 5)], 1.0))

    def test_plot_names_what_happened(self) -> None:
        samples = [(second / 4, second * MIB) for second in range(40)]
        course = copy_follower.Course('one way', 0.0, samples,
                                      [(5.0, 20 * MIB, 4.0 * MIB)],
                                      [(6.0, 'stopped')])
        svg = plots.courses([course, copy_follower.Course('another', 0.0)])
        for text in ('one way', 'another', 'stopped', 'told by Cinder'):
            self.assertIn(f'<!-- {text}', svg)
