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

"""Try an iSCSI path as QEMU would, before QEMU is told of it.

QEMU logs in synchronously. At a portal that accepts the connection and never
answers, attaching a disk freezes the whole guest, and a migration can neither
go on nor be aborted. So qemu-img, which has the same block driver, logs in
first, where it can be killed.
"""

import re

from oslo_concurrency import processutils
from oslo_log import log as logging
from oslo_serialization import jsonutils

import nova.conf
from nova import exception
from nova.i18n import _
from nova.virt.libvirt.volume import iscsi_connection

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

#: A port that no target listens on: the answer shows whether there is a
#: driver to ask with.
_NOWHERE = iscsi_connection.Path('127.0.0.1', 1, 'iqn.2010-10.org.openstack',
                                 0)


def first_healthy(connection: iscsi_connection.Connection,
                  initiator_name: str,
                  volume_id: str) -> iscsi_connection.Path:
    """The first path that lets QEMU log in and has the LUN.

    :param connection: the paths, and the credentials for all of them
    :param initiator_name: the name to log in as
    :param volume_id: for messages
    :raises: ISCSIPathsFailed saying why, for each path
    """
    failures = []
    for path in connection.paths:
        why = probe(path, connection.chap, initiator_name)
        if why is None:
            return path
        LOG.warning('Volume %(volume)s: no iSCSI path by %(portal)s: %(why)s',
                    {'volume': volume_id, 'portal': path.portal, 'why': why})
        failures.append(f'{path.portal}: {why}')
    raise exception.ISCSIPathsFailed(
        volume_id=volume_id, reason='; '.join(failures))


def probe(path: iscsi_connection.Path, chap: iscsi_connection.CHAP | None,
          initiator_name: str) -> str | None:
    """Log in to a path and look at its LUN, within the configured deadline.

    :returns: None when QEMU can use the path, else why it can not
    """
    deadline = CONF.libvirt.iscsi_probe_timeout
    try:
        out = _qemu_img_info(path, chap, initiator_name, deadline)
    except TimeoutError:
        return _('no answer within %d seconds') % deadline
    except processutils.ProcessExecutionError as exc:
        return _reason(exc.stderr or '')
    except OSError as exc:
        return f'qemu-img: {exc.strerror}'
    # A LUN that the target does not serve as a disk can pass the login.
    if not jsonutils.loads(out).get('virtual-size'):
        return _('LUN %d has no size') % path.lun
    return None


def check_block_driver() -> None:
    """See that this host's QEMU has the iSCSI block driver if it is to.

    :raises: InternalError with the packages that bring it
    """
    if (CONF.libvirt.iscsi_initiator != 'qemu' or
            CONF.libvirt.virt_type not in ('kvm', 'qemu')):
        return
    why = probe(_NOWHERE, None, _NOWHERE.iqn) or ''
    if re.search(r'unknown (driver|protocol)|^qemu-img: ', why,
                 re.IGNORECASE):
        raise exception.InternalError(_(
            '[libvirt]iscsi_initiator is qemu, but QEMU has no iSCSI block '
            'driver (%s). Install it (package qemu-block-extra on Debian and '
            'Ubuntu, qemu-block-iscsi on Fedora and SUSE) or set the option '
            'to host.') % why)


def _qemu_img_info(path: iscsi_connection.Path,
                   chap: iscsi_connection.CHAP | None, initiator_name: str,
                   deadline: int) -> str:
    disk = {'driver': 'iscsi', 'transport': 'tcp', 'portal': path.portal,
            'target': path.iqn, 'lun': path.lun,
            'initiator-name': initiator_name}
    secret: tuple[str, ...] = ()
    if chap:
        # The password goes through a pipe: neither a command line nor a file
        # ever holds it.
        secret = ('--object', 'secret,id=chap,file=/dev/stdin')
        disk.update({'user': chap.username, 'password-secret': 'chap'})
    return run(
        deadline, chap.password.encode() if chap else None,
        'qemu-img', 'info', '--output=json', *secret,
        'json:' + jsonutils.dumps({'driver': 'raw', 'file': disk}))


def run(deadline: int, stdin: bytes | None, *command: str) -> str:
    """Run a program, and kill it when its time is over.

    :param deadline: in seconds
    :param stdin: what it may read, secrets too
    :returns: what it printed
    :raises: TimeoutError, and what processutils.execute raises
    """
    late = []

    def end(process):
        if process.poll() is None:
            late.append(process)
            process.kill()
            process.communicate()

    try:
        return processutils.execute(*command, process_input=stdin,
                                    timeout=deadline, on_completion=end)[0]
    except Exception:
        # With eventlet it is a TimeoutExpired that has no name to catch.
        if late:
            raise TimeoutError
        raise


def _reason(stderr: str) -> str:
    """QEMU's reason, without the program and the whole JSON before it."""
    text = ' '.join(stderr.split())
    text = re.sub(r"qemu-img: (Could not open 'json:.*?\}\}': )?", '', text)
    return text.removeprefix('iSCSI: ') or _('qemu-img gave no reason')
