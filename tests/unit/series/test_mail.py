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

from blockpath.series import mail

MAIL = b'''\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: =?UTF-8?q?J=C3=BCrgen=20M?= <j@example.org>
Date: Sat, 21 Nov 2026 03:58:22 +0100
Subject: [PATCH] libvirt: A subject that is so long that it is folded by
 the mail format

Why.

Closes-Bug: #1

'''


class MailTest(testtools.TestCase):

    def test_message(self):
        letter = mail.parse(MAIL)
        self.assertEqual('J\xfcrgen M', letter.name)
        self.assertEqual('j@example.org', letter.address)
        self.assertEqual('libvirt: A subject that is so long that it is '
                         'folded by the mail format', letter.subject)
        self.assertEqual('Why.\n\nCloses-Bug: #1', letter.body)
        self.assertEqual((), letter.diffs)

    def test_diff_is_kept_to_the_byte(self):
        text = MAIL + (b'diff --git a/f b/f\nindex %b..%b\n--- a/f\n+++ b/f\n'
                       b'@@ -1 +1 @@ def f():\n-\xe9\n+e\n'
                       % (b'1' * 40, b'2' * 40))
        letter = mail.parse(text)
        self.assertEqual(['f'], [each.path for each in letter.diffs])
        self.assertEqual(text, letter.head + letter.tail)

    def test_statistics_are_no_message(self):
        letter = mail.parse(MAIL + b'---\n f | 2 +-\n 1 file changed\n\n')
        self.assertEqual('Why.\n\nCloses-Bug: #1', letter.body)

    def test_not_a_mail(self):
        for text in (b'', b'diff --git a/f b/f\n\n', MAIL.replace(
                b'Date:', b'X-Date:'), MAIL.replace(b'<j@example.org>', b'')):
            self.assertRaises(mail.MailError, mail.parse, text)
