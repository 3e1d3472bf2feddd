#!/bin/sh
#
# The first process of a host: makes its root, then becomes systemd.
#
# The root is the userland's folder, read-only, below the host's own files
# (lab.overlay=FOLDER on the kernel's command line); the host's writes stay in
# its memory. FOLDER/etc/lab holds "shares", folders of the machine to mount at
# the same path, and "network", commands for "ip -batch".

export PATH=/usr/sbin:/usr/bin:/sbin:/bin

fail() {
    echo "lab-init: $*"
    echo o >/proc/sysrq-trigger
    exec sleep 60
}

# Newer kernels have the folder as an option with a name.
mount_folder() {
    mkdir -p "$2"
    mount -t hostfs -o "hostfs=$1" none "$2" 2>/dev/null ||
        mount -t hostfs -o "$1" none "$2" || fail "cannot mount $1"
}

mount -t proc proc /proc
read -r line </proc/cmdline
for word in $line; do
    case $word in
        lab.overlay=*) overlay=${word#lab.overlay=} ;;
    esac
done
mount -t tmpfs -o mode=755 tmpfs /mnt || fail "no tmpfs"
mkdir /mnt/upper /mnt/work /mnt/root
mount_folder "$overlay" /mnt/own
modprobe overlay
mount -t overlay -o \
    lowerdir=/mnt/own:/,upperdir=/mnt/upper,workdir=/mnt/work overlay \
    /mnt/root || fail "no overlay"
while read -r source target; do
    mount_folder "$source" "/mnt/root$target"
done </mnt/own/etc/lab/shares
ip -batch /mnt/own/etc/lab/network || fail "no network"
umount /proc
exec switch_root /mnt/root /lib/systemd/systemd
