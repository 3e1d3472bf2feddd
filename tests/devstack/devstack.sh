#!/bin/bash
#
# As much of devstack as a plugin sees: usage: devstack.sh stack|unstack|clean.
#
# Calls the plugin as stack.sh, unstack.sh and clean.sh do, with errexit and
# xtrace as there, and does between its phases what it depends on: clones,
# configuration files. From the environment: LOCAL_CONF, PLUGIN (the devstack
# folder of the plugin), DEST, UPSTREAM (repositories to clone), ETC, CALLS
# (notes of what was installed and started), HARNESS_PYTHON.
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

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# What a plugin calls.

function trueorfalse {
    case ${!2:-$1} in
        1 | [Yy]es | YES | [Tt]rue | TRUE) echo True ;;
        *) echo False ;;
    esac
}

function err {
    echo "[ERROR] line $1: $2" >&2
}

# One word, as err: what follows is not shown.
function warn {
    echo "[WARNING] line $1: $2" >&2
}

function die {
    set +o xtrace
    err "$1" "${*:2}"
    exit 1
}

function is_service_enabled {
    local service
    for service in "$@"; do
        case $service in
            nova) [[ ,$ENABLED_SERVICES != *,n-* ]] || return 0 ;;
            cinder) [[ ,$ENABLED_SERVICES != *,c-* ]] || return 0 ;;
            *) [[ ,$ENABLED_SERVICES, != *,$service,* ]] || return 0 ;;
        esac
    done
    return 1
}

function use_library_from_git {
    [[ ${LIBS_FROM_GIT:-} == ALL || ,${LIBS_FROM_GIT:-}, == *,$1,* ]]
}

function is_fedora {
    [[ $DISTRO == rhel* ]]
}

# Where it is yum_install, dnf's exit code is lost.
function install_package {
    echo "install $*" >>"$CALLS"
}

function is_package_installed {
    [[ " ${ABSENT_PACKAGES:-} " != *" $1 "* ]]
}

function start_service {
    echo "start $*" >>"$CALLS"
}

function sudo {
    echo "sudo $*" >>"$CALLS"
    "$@"
}

function mpathconf {
    touch "${!#}"
}

function ini {
    "$HARNESS_PYTHON" "$HERE/ini.py" "$@"
}

function iniset {
    ini set "$@"
}

function iniget {
    ini get "$@"
}

function inidelete {
    ini delete "$@"
}

function ini_has_option {
    ini has "$@"
}

function enable_plugin {
    DEVSTACK_PLUGINS=${DEVSTACK_PLUGINS:+$DEVSTACK_PLUGINS,}$1
}

# A clone is brought to upstream's branch again only with RECLONE.
function git_clone {
    local remote=$1 folder=$2 branch=$3
    if [[ ! -d $folder ]]; then
        git clone --quiet --branch "$branch" "$remote" "$folder"
    elif [[ $(trueorfalse False RECLONE) == True ]]; then
        git -C "$folder" fetch --quiet origin
        git -C "$folder" checkout --quiet --force -B "$branch" \
            "origin/$branch"
    fi
}

function git_clone_by_name {
    git_clone "${GITREPO[$1]}" "${GITDIR[$1]}" "${GITBRANCH[$1]}"
}

# What stackrc, local.conf and lib/* assign. The plugin reads it.
# shellcheck disable=SC2034
function load_settings {
    DATA_DIR=$DEST/data
    TARGET_BRANCH=${TARGET_BRANCH:-master}
    HOST_IP=192.0.2.10
    ENABLED_SERVICES=key,n-api,n-cpu,n-cond,n-sch,c-sch,c-api,c-vol,tempest
    # shellcheck source=/dev/null
    source <(sed -n '/^\[\[local|localrc\]\]/,/^\[\[post/ { /^\[\[/ !p }' \
        "$LOCAL_CONF")
    NOVA_REPO=$UPSTREAM/nova NOVA_DIR=$DEST/nova
    NOVA_BRANCH=${NOVA_BRANCH:-$TARGET_BRANCH}
    CINDER_REPO=$UPSTREAM/cinder CINDER_DIR=$DEST/cinder
    CINDER_BRANCH=${CINDER_BRANCH:-$TARGET_BRANCH}
    declare -gA GITREPO GITDIR GITBRANCH
    GITREPO[os-brick]=$UPSTREAM/os-brick
    GITDIR[os-brick]=$DEST/os-brick
    GITBRANCH[os-brick]=$TARGET_BRANCH
    NOVA_CONF=$ETC/nova/nova.conf NOVA_CPU_CONF=$ETC/nova/nova-cpu.conf
    CINDER_CONF=$ETC/cinder/cinder.conf
    TEMPEST_CONFIG=$ETC/tempest.conf
    CINDER_ENABLED_BACKENDS=${CINDER_ENABLED_BACKENDS:-lvm:lvmdriver-1}
    PYTHON=$DEST/data/venv/bin/python
    # shellcheck source=/dev/null
    source "$PLUGIN/settings"
}

function plugin {
    set -o xtrace
    # shellcheck source=/dev/null
    source "$PLUGIN/plugin.sh" "$@"
    if [[ $- != *x* ]]; then
        die $LINENO "the plugin left xtrace off after: $*"
    fi
    set +o xtrace
}

# Between the phases.

function install_services {
    if is_service_enabled cinder; then
        git_clone "$CINDER_REPO" "$CINDER_DIR" "$CINDER_BRANCH"
        configure_cinder
    fi
    if is_service_enabled nova; then
        git_clone "$NOVA_REPO" "$NOVA_DIR" "$NOVA_BRANCH"
        rm -f "$NOVA_CONF" "$NOVA_CPU_CONF"
        iniset "$NOVA_CONF" libvirt virt_type qemu
        # Something that a test finds again, or not.
        iniset "$NOVA_CONF" libvirt iscsi_check_identity true
        cp "$NOVA_CONF" "$NOVA_CPU_CONF"
    fi
}

function configure_cinder {
    local backend driver
    rm -f "$CINDER_CONF"
    iniset "$CINDER_CONF" DEFAULT my_ip "$HOST_IP"
    for backend in ${CINDER_ENABLED_BACKENDS//,/ }; do
        driver=lvm.LVMVolumeDriver
        if [[ $backend == ceph:* ]]; then
            driver=rbd.RBDDriver
        fi
        iniset "$CINDER_CONF" "${backend##*:}" volume_driver \
            "cinder.volume.drivers.$driver"
        iniset "$CINDER_CONF" "${backend##*:}" target_helper lioadm
    done
}

function configure_tempest {
    rm -f "$TEMPEST_CONFIG"
    iniset "$TEMPEST_CONFIG" volume storage_protocol ceph
    echo "tempest plugins: $TEMPEST_PLUGINS" >>"$CALLS"
}

# Until it is waited for, something in the background may write the same file.
function async_wait {
    echo "wait for $*" >>"$CALLS"
    if grep -qs iscsi_initiator "$NOVA_CONF"; then
        echo 'too late' >>"$CALLS"
    fi
}

function stack {
    # Only stack.sh has it.
    function echo_summary {
        echo "== $*"
    }
    trap 'exit 1' ERR
    set -o errexit
    mkdir -p "$DATA_DIR"
    plugin stack pre-install
    install_services
    plugin stack install
    plugin stack post-config
    plugin stack extra
    if is_service_enabled tempest; then
        configure_tempest
    fi
    plugin stack test-config
}

load_settings
case $1 in
    stack) stack ;;
    unstack) plugin unstack ;;
    clean)
        # Not all releases of devstack load the settings there.
        unset BLOCKPATH_DIR
        plugin clean
        ;;
esac
