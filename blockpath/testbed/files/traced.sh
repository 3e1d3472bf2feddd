#!/bin/sh
# Stands before a program in PATH under its name: records each call, then is
# the program. A record is a line: process id, seconds since boot, name and
# arguments, each after a unit separator.
#
# A call whose arguments hold the text in /run/testbed/hold, while that file is
# there, waits for its removal; /run/testbed/held then has its process id. One
# whose arguments hold that in /run/testbed/fail does nothing but fail.
name=${0##*/}
read -r uptime _ </proc/uptime
line=$$$(printf '\037%s' "$uptime" "$name" "$@")
printf '%s\n' "$line" >>/run/testbed/calls
if [ -e /run/testbed/hold ]; then
    read -r text </run/testbed/hold
    case "$name $*" in
        *"$text"*)
            echo $$ >/run/testbed/held
            while [ -e /run/testbed/hold ]; do
                sleep 0.1
            done
            ;;
    esac
fi
if [ -e /run/testbed/fail ]; then
    read -r text </run/testbed/fail
    case "$name $*" in
        *"$text"*)
            echo "$name: made to fail" >&2
            exit 1
            ;;
    esac
fi
exec "/usr/sbin/$name" "$@"
