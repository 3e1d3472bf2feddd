#!/bin/bash
#
# The series in the trees of this node: applied before anything is installed
# from them, and taken away again.
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

_XTRACE_BLOCKPATH_SERIES=$(set +o | grep xtrace)
set +o xtrace

# clone_blockpath_trees() - Have the repositories that this node installs from
function clone_blockpath_trees {
    # As the install_* functions do later, which find them there.
    if use_library_from_git os-brick; then
        git_clone_by_name os-brick
    fi
    if is_service_enabled nova; then
        git_clone "$NOVA_REPO" "$NOVA_DIR" "$NOVA_BRANCH"
    fi
    if is_service_enabled cinder; then
        git_clone "$CINDER_REPO" "$CINDER_DIR" "$CINDER_BRANCH"
    fi
}

# apply_blockpath_series() - In all repositories, or in none
#
# Once more after they were installed: with RECLONE, or a change of Gerrit's
# for a branch, devstack has put them back to upstream's meanwhile.
function apply_blockpath_series {
    if use_library_from_git os-brick; then
        find_blockpath_release os-brick "${GITBRANCH[os-brick]}"
        _blockpath_apply os-brick "${GITDIR[os-brick]}"
    fi
    if is_service_enabled nova; then
        find_blockpath_release nova "$NOVA_BRANCH"
        _blockpath_apply nova "$NOVA_DIR"
    fi
    if is_service_enabled cinder; then
        find_blockpath_release cinder "$CINDER_BRANCH"
        _blockpath_apply cinder "$CINDER_DIR"
    fi
}

# apply_blockpath_series_to_installed_os_brick() - If it came by pip
function apply_blockpath_series_to_installed_os_brick {
    local folder
    if use_library_from_git os-brick || ! is_service_enabled nova cinder; then
        return
    fi
    # The release that was found for Nova or Cinder is its, too.
    folder=$("${PYTHON:-python3}" -I -c 'import importlib.util as util, os
print(os.path.dirname(util.find_spec("os_brick").origin.rpartition("/")[0]))
') || die $LINENO "${PYTHON:-python3} has no os-brick, though Nova or Cinder" \
        "is installed"
    _blockpath_apply os-brick "$folder"
}

# _blockpath_apply TREE FOLDER - Bring one tree to the series
function _blockpath_apply {
    local tree=$1 folder=$2 release=$_blockpath_release state
    # The checkout is the stack user's; apply may run as root.
    blockpath_series fetch "$tree" --release "$release" || \
        _blockpath_give_up "$tree" "$folder" ''
    state=$(_blockpath_state "$tree" "$folder" "$release")
    if [[ $state == applied ]]; then
        _blockpath_note "$tree" "$folder" "$release"
        return
    fi
    if [[ $state == 'other version' ]]; then
        _blockpath_series_in "$folder" "$tree" "$release" --reverse || \
            _blockpath_give_up "$tree" "$folder" ''
    fi
    _blockpath_series_in "$folder" "$tree" "$release" || \
        _blockpath_give_up "$tree" "$folder" 'If the tree moved, check out a
commit nearer to the release, or rebase the patch (CONTRIBUTING.rst)'
    _blockpath_applied+=("$tree $release $folder")
    _blockpath_note "$tree" "$folder" "$release"
}

# _blockpath_give_up TREE FOLDER ADVICE - Say why, having undone the others
function _blockpath_give_up {
    local tree=$1 folder=$2 why=$BLOCKPATH_ERROR advice=${3//$'\n'/ }
    local each other release path
    for each in "${_blockpath_applied[@]}"; do
        read -r other release path <<<"$each"
        if _blockpath_series_in "$path" "$other" "$release" --reverse; then
            _blockpath_forget "$other" "$path"
        fi
    done
    die $LINENO "blockpath: the series was not applied to $tree in $folder," \
        "and taken back where this run had applied it: $why. $advice"
}

# find_blockpath_release TREE BRANCH - The release that a tree is of, in
# _blockpath_release
function find_blockpath_release {
    local tree=$1 branch=$2 name other version
    _blockpath_release=$BLOCKPATH_RELEASE
    if [[ -n $BLOCKPATH_RELEASE ]]; then
        return
    fi
    : "${_blockpath_default:=$(blockpath_series releases | head -n 1)}"
    : "${_blockpath_known:=$(blockpath_series releases --all)}"
    case $branch in
        stable/* | unmaintained/*) _blockpath_release=${branch#*/} ;;
        [0-9]*.[0-9]*)
            # A tag. The first number is the release's.
            while read -r name other version; do
                if [[ $other == "$tree" && \
                        ${version%%.*} == "${branch%%.*}" ]]; then
                    _blockpath_release=$name
                fi
            done <<<"$_blockpath_known"
            ;;
        *) _blockpath_release=${_blockpath_default%% *} ;;
    esac
    if [[ $'\n'$_blockpath_known != *$'\n'"$_blockpath_release $tree "* ]]; then
        die $LINENO "the blockpath series has no release for $tree" \
            "$branch; set BLOCKPATH_RELEASE to one of:" \
            "$(cut -d ' ' -f 1 <<<"$_blockpath_known" | sort -u | xargs)"
    fi
}

# _blockpath_state TREE FOLDER RELEASE - One of series/target.py's Status
function _blockpath_state {
    local line
    line=$(_blockpath_series_in "$2" "$1" "$3" --status | tail -n 1)
    line=${line#"$1": }
    echo "${line%% (*}"
}

# _blockpath_series_in FOLDER TREE RELEASE [OPTION] - series apply, as who may
function _blockpath_series_in {
    local folder=$1 tree=$2 release=$3
    # lib/tool.sh reads it.
    # shellcheck disable=SC2034
    local -a BLOCKPATH_AS=()
    shift 3
    # Without the global venv pip installs as root.
    if [[ -d $folder && ! -w $folder ]]; then
        # shellcheck disable=SC2034
        BLOCKPATH_AS=(sudo)
    fi
    blockpath_series apply "$tree" --release "$release" --to "$folder" "$@"
}

# _blockpath_note TREE FOLDER RELEASE - Remember what there is to undo
function _blockpath_note {
    _blockpath_forget "$1" "$2"
    echo "$1 $3 $2" >>"$BLOCKPATH_STATE/applied"
}

function _blockpath_forget {
    local tree release folder notes=$BLOCKPATH_STATE/applied
    touch "$notes"
    while read -r tree release folder; do
        if [[ $tree != "$1" || $folder != "$2" ]]; then
            echo "$tree $release $folder"
        fi
    done <"$notes" >"$notes.new"
    mv "$notes.new" "$notes"
}

# reverse_blockpath_series() - Take it away from where it was applied
function reverse_blockpath_series {
    local tree release folder
    if [[ ! -s $BLOCKPATH_STATE/applied ]]; then
        return
    fi
    # From a copy, as each one that is undone is struck off.
    while read -r tree release folder <&5; do
        if [[ ! -d $folder ]] || \
                _blockpath_series_in "$folder" "$tree" "$release" --reverse
        then
            _blockpath_forget "$tree" "$folder"
        else
            warn $LINENO "the blockpath series stays in $folder: \
$BLOCKPATH_ERROR"
        fi
    done 5<<<"$(tac "$BLOCKPATH_STATE/applied")"
}

$_XTRACE_BLOCKPATH_SERIES
