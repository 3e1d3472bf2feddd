#!/bin/bash
#
# What tempest is told of the cloud.
#
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

# devstack's variables are assigned elsewhere.
# shellcheck disable=SC2154

_XTRACE_BLOCKPATH_TEMPEST=$(set +o | grep xtrace)
set +o xtrace

# configure_blockpath_tempest() - In tempest.conf, which is there by now
function configure_blockpath_tempest {
    local iscsi rbd
    local -a names
    if ! is_service_enabled tempest; then
        return
    fi
    iscsi=$(blockpath_backends lvm | head -n 1)
    rbd=$(blockpath_backends ceph | head -n 1)
    _configure_blockpath_tempest_hosts
    # The two that volumes are moved between.
    mapfile -t names < <(blockpath_backends lvm | head -n 1
        (blockpath_backends ceph
            blockpath_backends lvm | tail -n +2) | head -n 1)
    if [[ ${#names[@]} -eq 2 ]]; then
        blockpath_iniset "$TEMPEST_CONFIG" volume-feature-enabled \
            multi_backend True
        blockpath_iniset "$TEMPEST_CONFIG" volume backend_names \
            "${names[0]},${names[1]}"
    fi
    if [[ -n $iscsi && -n $rbd && $(_blockpath_default_backend) == "$iscsi" && \
            ${CINDER_TARGET_HELPER:-lioadm} =~ ^(lioadm|tgtadm)$ ]]; then
        # devstack-plugin-ceph says that all is Ceph.
        blockpath_iniset "$TEMPEST_CONFIG" volume storage_protocol iSCSI
    fi
    _configure_blockpath_tempest_plugin "$iscsi" "$rbd"
}

# _blockpath_default_backend() - Whose volume type is the default one
function _blockpath_default_backend {
    local first=${CINDER_ENABLED_BACKENDS%%,*}
    echo "${first##*:}"
}

function _configure_blockpath_tempest_hosts {
    if [[ $BLOCKPATH_COMPUTE_NODES -lt 2 ]]; then
        return
    fi
    blockpath_iniset "$TEMPEST_CONFIG" compute min_compute_nodes \
        "$BLOCKPATH_COMPUTE_NODES"
    blockpath_iniset "$TEMPEST_CONFIG" compute-feature-enabled \
        live_migration "${LIVE_MIGRATION_AVAILABLE:-True}"
    blockpath_iniset "$TEMPEST_CONFIG" compute-feature-enabled \
        volume_backed_live_migration "${LIVE_MIGRATION_AVAILABLE:-True}"
}

# _configure_blockpath_tempest_plugin ISCSI-TYPE RBD-TYPE
function _configure_blockpath_tempest_plugin {
    local iscsi=$1 rbd=$2 between_targets=False between_backends=False
    if [[ -n $iscsi && $BLOCKPATH_TARGET_SCOPE == host && \
            $BLOCKPATH_COMPUTE_NODES -ge 2 ]]; then
        between_targets=True
    fi
    if [[ -n $iscsi && -n $rbd ]]; then
        between_backends=True
    fi
    # devstack makes a volume type of each backend's name.
    blockpath_iniset "$TEMPEST_CONFIG" blockpath iscsi_volume_type "$iscsi"
    blockpath_iniset "$TEMPEST_CONFIG" blockpath rbd_volume_type "$rbd"
    blockpath_iniset "$TEMPEST_CONFIG" blockpath \
        live_migration_between_targets \
        "${BLOCKPATH_TEST_LIVE_MIGRATION:-$between_targets}"
    blockpath_iniset "$TEMPEST_CONFIG" blockpath \
        volume_migration_between_backends \
        "${BLOCKPATH_TEST_VOLUME_MIGRATION:-$between_backends}"
    if [[ -n $BLOCKPATH_DEAD_PORTAL_TYPE ]]; then
        blockpath_iniset "$TEMPEST_CONFIG" blockpath multipath_dead_portal True
        blockpath_iniset "$TEMPEST_CONFIG" blockpath dead_portal_volume_type \
            "$BLOCKPATH_DEAD_PORTAL_TYPE"
    fi
    if [[ $BLOCKPATH_TEST_INTERRUPTED == True ]]; then
        _configure_blockpath_interruption
    fi
}

# _configure_blockpath_interruption() - How to kill cinder-volume, and start it
function _configure_blockpath_interruption {
    local systemctl='sudo systemctl' unit=devstack@c-vol.service
    blockpath_iniset "$TEMPEST_CONFIG" blockpath interrupted_migration True
    blockpath_iniset "$TEMPEST_CONFIG" blockpath kill_volume_service \
        "$systemctl kill --signal=SIGKILL $unit"
    blockpath_iniset "$TEMPEST_CONFIG" blockpath start_volume_service \
        "$systemctl restart $unit"
}

$_XTRACE_BLOCKPATH_TEMPEST
