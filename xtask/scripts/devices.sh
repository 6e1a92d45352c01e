# Disks on three controllers and two network cards carry data with message-signalled interrupts. The machine is reset in
# the middle: this runs in both boots, and what the disks hold says which it is.
. /etc/testlib.sh

CONTROLLERS='virtio ahci nvme'

# disk_behind CONTROLLER: its one disk.
disk_behind() {
    case $1 in virtio) part=/virtio ;; ahci) part=/ata ;; nvme) part=/nvme ;; esac
    for block in /sys/block/*; do
        case $(readlink -f "$block") in *$part*) echo "/dev/${block##*/}" ;; esac
    done
}

there() { [ -b "$(disk_behind "$1")" ]; }

mounted() { mkdir -p "/mnt/$1" && mount -t ext4 "$(disk_behind "$1")" "/mnt/$1"; }

# count_of IRQ: how often it came, on all CPUs.
count_of() { awk -v irq="$1:" '$1 == irq { for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }' /proc/interrupts; }

# interrupts DRIVER KIND: the driver's devices have interrupts of that kind, and some came on each device.
interrupts() {
    devices=$(ls -d /sys/bus/pci/drivers/"$1"/0000:*) || return 1
    for device in $devices; do
        total=0
        for irq in $(ls "$device/msi_irqs"); do
            is "$(cat "$device/msi_irqs/$irq")" "$2" || return 1
            grep "^ *$irq:" /proc/interrupts | grep -q PCI-MSI || return 1
            total=$((total + $(count_of "$irq")))
        done
        [ "$total" -gt 0 ] || { echo "no interrupt of $device"; return 1; }
    done
}

# card_of DRIVER: its one network interface.
card_of() {
    for card in /sys/class/net/*; do
        case $(readlink -f "$card/device/driver") in */"$1") echo "${card##*/}" ;; esac
    done
}

# traffic DRIVER: gets an address, and sends data to an echo service, which must come back as it was.
traffic() {
    card=$(card_of "$1")
    udhcpc -n -q -t 10 -i "$card" || return 1
    network=$(ip -4 -o address show dev "$card" | sed -n 's/.* inet \(10\.0\.[0-9]*\)\..*/\1/p')
    rm -f /tmp/echo
    nc "$network.100" 7 </tmp/random >/tmp/echo &
    complete() { [ "$(stat -c %s /tmp/echo 2>/dev/null)" = "$(stat -c %s /tmp/random)" ]; }
    wait_for 60 complete || return 1
    kill $! 2>/dev/null
    cmp /tmp/random /tmp/echo || return 1
    for way in rx tx; do
        bytes=$(cat "/sys/class/net/$card/statistics/${way}_bytes")
        [ "$bytes" -gt 4194304 ] || { echo "$way: $bytes bytes"; return 1; }
    done
}

for name in $CONTROLLERS; do
    wait_for 30 there $name || { ls /sys/block; fail "disk on $name"; }
    mounted $name || fail "mount of $name"
done

if [ ! -e /mnt/nvme/sums ]; then
    for name in $CONTROLLERS; do
        dd if=/dev/urandom of=/mnt/$name/file bs=1M count=16 2>/dev/null || fail "write to $name"
        (cd /mnt && sha256sum $name/file) >>/tmp/sums
    done
    for name in $CONTROLLERS; do cp /tmp/sums /mnt/$name/sums; done
    # What is read after a new mount comes from the disk.
    for name in $CONTROLLERS; do umount /mnt/$name && mounted $name || fail "second mount of $name"; done
    (cd /mnt && sha256sum -c /tmp/sums) || fail "read after write"
    ok "files written"

    dd if=/dev/urandom of=/tmp/random bs=1M count=4 2>/dev/null
    check "virtio-net" traffic virtio_net
    check "e1000e" traffic e1000e
    for name in $CONTROLLERS; do umount /mnt/$name || fail "umount of $name"; done
    reboot -f
    sleep 60
fi

for name in $CONTROLLERS; do
    cmp /mnt/nvme/sums /mnt/$name/sums || fail "sums on $name"
done
[ "$(wc -l </mnt/nvme/sums)" = 3 ] || fail "number of sums"
(cd /mnt && sha256sum -c nvme/sums) || fail "read after reset"
ok "files read after reset"

# The cards work after a reset without power off as well.
for driver in virtio_net e1000e; do
    udhcpc -n -q -t 10 -i "$(card_of $driver)" || fail "$driver after reset"
done
cat /proc/interrupts
check "MSI-X of nvme" interrupts nvme msix
check "MSI-X of virtio" interrupts virtio-pci msix
check "MSI-X of e1000e" interrupts e1000e msix
check "MSI of ahci" interrupts ahci msi
