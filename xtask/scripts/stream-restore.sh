# A guest comes back that another hypervisor saved.
. /etc/testlib.sh

# Not a virtio disk: that goes past the IOMMU, behind which dom0 has its memory under Debian's Xen.
modprobe ext4
mount -t ext4 -o ro /dev/nvme0n1 /mnt || fail "the disk"
xl restore /mnt/image >/tmp/restore.log 2>&1 || { cat /tmp/restore.log; show_guest traveller; xl dmesg | tail; fail restore; }
guest_says traveller "load 10" 300 || { show_guest traveller; fail "it goes on"; }
if grep BAD "$(console_of traveller)"; then fail damage; fi
ok restore
xl shutdown -w traveller >/tmp/shutdown.log 2>&1 &
gone() { ! xl list traveller >/dev/null 2>&1; }
wait_for 300 gone || { cat /tmp/shutdown.log; show_guest traveller; fail shutdown; }
ok shutdown
