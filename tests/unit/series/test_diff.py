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
import pathlib
import subprocess
import tempfile

import hypothesis
from hypothesis import strategies as st
import testtools

from blockpath.series import diff

# Few different lines, so that the same context occurs again and again.
LINES = st.lists(st.sampled_from([b'a\n', b'b\n', b'\n', b'\r\n', b'- x\n',
                                  b'diff --git a/x b/x\n', b'\xe9\x0c\n']),
                 max_size=12)
TEXT = st.builds(lambda lines, end: b''.join(lines) + end, LINES,
                 st.sampled_from([b'', b'end']))


def git_diff(before: bytes, after: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        for side, data in (('a', before), ('b', after)):
            (pathlib.Path(name) / side).mkdir()
            (pathlib.Path(name) / side / 'f').write_bytes(data)
        text = subprocess.run(
            ['git', 'diff', '--no-index', '--no-prefix', '--unified=1',
             '--full-index', '--text', 'a/f', 'b/f'],
            cwd=name, capture_output=True).stdout
    return text


class ExactTest(testtools.TestCase):

    @hypothesis.given(TEXT, TEXT)
    @hypothesis.settings(max_examples=60, deadline=None)
    def test_applies_what_git_writes(self, before, after):
        hypothesis.assume(before != after)
        [edit] = diff.parse(git_diff(before, after))
        self.assertEqual(after, diff.apply_hunks(edit.hunks, before))
        self.assertEqual((diff.blob_id(before), diff.blob_id(after)),
                         (edit.old, edit.new))

    @hypothesis.given(TEXT, TEXT, st.sampled_from([b'a\n', b'b\n', b'\n']))
    @hypothesis.settings(max_examples=60, deadline=None)
    def test_never_searches(self, before, after, line):
        """With a line put before it all, nothing may fit elsewhere.

        A result other than an error must be one where every hunk found its
        own lines at its own place.
        """
        hypothesis.assume(before != after)
        [edit] = diff.parse(git_diff(before, after))
        moved = line + before
        try:
            diff.apply_hunks(edit.hunks, moved)
        except diff.HunkError:
            return
        lines = diff.split_lines(moved)
        for hunk in edit.hunks:
            start = hunk.start - 1 if hunk.old else hunk.start
            self.assertEqual(hunk.old, lines[start:start + len(hunk.old)])

    def test_same_context_twice(self):
        before = b'x\nend\n' * 3
        hunks = (diff.Hunk(3, (b' x\n', b'+new\n')),)
        self.assertEqual(b'x\nend\nx\nnew\nend\nx\nend\n',
                         diff.apply_hunks(hunks, before))
        error = self.assertRaises(diff.HunkError, diff.apply_hunks, hunks,
                                  b'first\n' + before)
        self.assertEqual((1, 3), (error.hunk, error.line))


class ParseTest(testtools.TestCase):
    HEADER = b'diff --git a/f b/f\nindex %b..%b 100644\n' % (b'1' * 40,
                                                             b'2' * 40)

    def refused(self, text, words):
        error = self.assertRaises(diff.DiffError, diff.parse, text)
        self.assertIn(words, str(error))

    def test_cut_off(self):
        self.refused(self.HEADER + b'@@ -1,2 +1,2 @@\n a\n-b\n', 'cut off')

    def test_short_ids(self):
        self.refused(b'diff --git a/f b/f\nindex 123..456 100644\n',
                     '--full-index')

    def test_rename(self):
        self.refused(b'diff --git a/f b/f\nrename from f\n', '--no-renames')

    def test_binary(self):
        self.refused(b'diff --git a/f b/f\nBinary files a/f and b/f differ\n',
                     'binary')

    def test_symlink(self):
        self.refused(b'diff --git a/f b/f\nnew mode 120000\n', '120000')

    def test_two_names(self):
        self.refused(b'diff --git a/f b/g\n', 'header')

    def test_signature_is_no_hunk(self):
        [edit] = diff.parse(self.HEADER + b'@@ -1 +1 @@\n-a\n+b\n-- \n2.39\n')
        self.assertEqual(2, edit.hunks[0].changed)
        self.assertEqual(0, edit.hunks[0].context)
