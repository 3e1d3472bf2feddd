#!/bin/bash
#
# Settings that contradict one another are refused before anything is done.
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

_XTRACE_BLOCKPATH_CHECKS=$(set +o | grep xtrace)
set +o xtrace

# check_blockpath_settings() - Refuse what could only fail later
function check_blockpath_settings {
    if [[ -n $BLOCKPATH_SECOND_ADDRESS && \
            $BLOCKPATH_SECOND_ADDRESS != */* ]]; then
        die $LINENO "BLOCKPATH_SECOND_ADDRESS=$BLOCKPATH_SECOND_ADDRESS" \
            "has no prefix length; write ADDRESS/PREFIX"
    fi
    if [[ $BLOCKPATH_MULTIPATH == True && \
            $BLOCKPATH_ISCSI_INITIATOR == qemu ]]; then
        warn $LINENO "QEMU's initiator uses one portal; \
BLOCKPATH_MULTIPATH is for what the hosts connect"
    fi
    if [[ $BLOCKPATH_TEST_INTERRUPTED == True || \
            $BLOCKPATH_TEST_VOLUME_MIGRATION == True ]] && [[ \
            -z $(blockpath_backends lvm) || -z $(blockpath_backends ceph) ]]
    then
        die $LINENO "BLOCKPATH_TEST_INTERRUPTED and" \
            "BLOCKPATH_TEST_VOLUME_MIGRATION move volumes between LVM and" \
            "Ceph, and CINDER_ENABLED_BACKENDS has not both"
    fi
    if [[ -n $(blockpath_backends ceph) && \
            ,${DEVSTACK_PLUGINS:-}, != *,devstack-plugin-ceph,* ]]; then
        warn $LINENO "CINDER_ENABLED_BACKENDS has a ceph backend, but \
devstack-plugin-ceph is not enabled"
    fi
}

$_XTRACE_BLOCKPATH_CHECKS
