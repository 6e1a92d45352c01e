# Mixed load for radon.seconds=: see guests/probe. The disk is a virtio one if there is one, else a loop device.
. /etc/testlib.sh

seconds=$(argument seconds 60)
disk=/dev/vda
if [ ! -b $disk ]; then
    dd if=/dev/zero of=/tmp/disk bs=1M count=32 2>/dev/null
    disk=$(losetup -f)
    losetup "$disk" /tmp/disk || fail "no disk, and no loop device"
fi
echo "SOAK disk: $disk"
# The watchdog looks at each CPU every four seconds, which would make good what was lost.
echo 0 >/proc/sys/kernel/watchdog
# Only what is said from here on counts.
dmesg -c >/dev/null
probe soak "$seconds" "$disk" || fail soak
ok soak
# One interrupt that took long is what a kernel sees of a host with fewer CPUs than the machine; wake-ups are judged above.
dmesg -r | grep '^<[0-4]>' | grep -v 'hrtimer: interrupt took' && fail "the kernel complains"
ok dmesg
