# Settings of the Debian system that `cargo xtask` makes; runs outside of it, when its packages are installed.
# $1: its folder; $2: the kernel's release.
set -e
root=$1
inside() { chroot "$root" "$@"; }

chown -R 0:0 "$root/usr/lib/modules"
inside depmod "$2"

echo debian >"$root/etc/hostname"
printf '127.0.0.1 localhost debian\n::1 localhost\n' >"$root/etc/hosts"
echo '/dev/vda / ext4 defaults 0 0' >"$root/etc/fstab"
: >"$root/etc/apt/sources.list"
# root logs in without a password: this is a machine to try things on.
inside passwd --quiet --delete root

# The network, where there is a card. Nothing waits for it.
printf '[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/dhcp.network"
inside systemctl enable --quiet systemd-networkd.service
inside systemctl mask --quiet systemd-networkd-wait-online.service
rm -f "$root/etc/resolv.conf"
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
# Cleans up after snapshots of LVM, of which there are none.
inside systemctl mask --quiet e2scrub_reap.service e2scrub_all.timer

# What systemd would do at the first boot with new files in /usr, the packages' own scripts have done.
touch "$root/etc/.updated" "$root/var/.updated"
