#!/bin/busybox sh
# shellcheck shell=dash
# The initramfs: loads what the root file system needs, and goes there.
busybox mount -t devtmpfs none /dev
while read -r module; do
    busybox insmod "/modules/$module"
done </modules/order
busybox mount -t ext4 -o noatime /dev/vda /root
busybox mount --move /dev /root/dev
exec busybox switch_root /root /lib/systemd/systemd
