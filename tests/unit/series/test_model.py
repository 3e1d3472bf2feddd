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
import testtools

from blockpath import paths
from blockpath.series import model
from tests.unit.series import base

PIN = '[releases."1".nova]\nversion = "1"\nsha256 = "0"\n'


class SeriesTest(base.TestCase):

    def load(self, text: str) -> model.Series:
        (self.temp / 'patches').mkdir(exist_ok=True)
        (self.temp / 'patches/series.toml').write_text(text)
        return model.Series(self.temp)

    def refused(self, text: str, words: str) -> None:
        self.assert_says(model.SeriesError, words, self.load, text)

    def test_missing(self):
        self.assert_says(model.SeriesError, 'is missing', model.Series,
                         self.temp)

    def test_malformed(self):
        self.refused('default = ', 'series.toml')
        self.refused('default = "1"\n', 'releases')
        self.refused('default = "2"\n' + PIN, "'2'")
        self.refused('default = "1"\n[releases."1".nova]\n', 'version')
        self.refused('default = "1"\n' + PIN.replace('nova', 'glance'),
                     'glance')
        self.refused('default = "1"\n' + PIN + '[[patches.cinder]]\n',
                     'cinder')
        self.refused('default = "1"\n' + PIN + '[[patches.nova]]\n',
                     'no name')

    def test_unknown(self):
        series = self.load('default = "1"\n' + PIN)
        self.assert_says(model.SeriesError, 'no release 2', series.pin,
                         'nova', '2')
        self.assert_says(model.SeriesError, 'no tree glance', series.pin,
                         'glance', '1')


class OurSeriesTest(testtools.TestCase):

    def test_loads(self):
        series = model.Series(paths.ROOT)
        self.assertEqual(['os-brick', 'nova', 'cinder'], series.trees())
        self.assertEqual('os_brick-7.1.1.tar.gz',
                         series.pin('os-brick', '2026.2').sdist)
