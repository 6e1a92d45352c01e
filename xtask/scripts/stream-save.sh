# A guest is saved to the disk, for another hypervisor.
. /etc/testlib.sh

# Not a virtio disk: that goes past the IOMMU, behind which dom0 has its memory under Debian's Xen.
modprobe ext4
mount -t ext4 /dev/nvme0n1 /mnt || fail "the disk"
guest traveller "vcpus=$(argument vcpus 2)" "cmdline='console=hvc0 quiet radon.script=/etc/load.sh radon.rest=200000'"
xl create -q /tmp/traveller.cfg || fail create
guest_says traveller "load 5" 300 || { show_guest traveller; fail boot; }
xl save traveller /tmp/image >/tmp/save.log 2>&1 || { cat /tmp/save.log; fail save; }
cp /tmp/image /mnt/image || fail "room on the disk"
umount /mnt || fail "writing it out"
ok save
