# What Linux knows about the hypervisor when it is dom0 of something that speaks Xen's ABI.
. /etc/testlib.sh

advances() {
    read -r before rest </proc/uptime
    sleep 1
    read -r after rest </proc/uptime
    # Hundredths of a second.
    gone=$((${after%.*}${after#*.} - ${before%.*}${before#*.}))
    [ $gone -ge 95 ] && [ $gone -le 400 ] || { echo "a second took $gone hundredths"; false; }
}

check "hypervisor type" is "$(cat /sys/hypervisor/type)" xen
check "version" is "$(cat /sys/hypervisor/version/major).$(cat /sys/hypervisor/version/minor)" 4.17
check "privileged" grep -q control_d /proc/xen/capabilities
check "time advances" advances

# The processors of the machine, by platform operations.
check "physical processors" test -d /sys/devices/system/xen_cpu/xen_cpu0
check "hypervisor symbols" head -n 1 /proc/xen/xensyms
