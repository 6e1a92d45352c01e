# Disks and network interfaces of a guest, there from the start and attached later; all data checked in both directions.
. /etc/testlib.sh

for n in 1 2 3; do dd if=/dev/urandom of=/tmp/disk$n bs=1M count=4 2>/dev/null; done
losetup /dev/loop5 /tmp/disk2
ip link add xenbr0 type bridge
ip addr add 10.9.0.1/24 dev xenbr0
ip link set xenbr0 up
guest one "vcpus=2" "disk=['/tmp/disk1,raw,xvda,w', 'phy:/dev/loop5,xvdb,w']" "vif=['bridge=xenbr0,mac=00:16:3e:00:00:01']"
starts one
ok boot

# same FILE DEVICE: whether the guest reads what is in a file of dom0.
sum() { md5sum "$1" | cut -d' ' -f1; }
same() { is "$(in_guest one "md5sum $2" | awk -v d="$2" '$2 == d { print $1 }')" "$(sum "$1")"; }
# fill FILE DEVICE: the guest writes, and dom0 finds it.
fill() {
    old=$(sum "$1")
    in_guest one "dd if=/dev/urandom of=$2 bs=64k count=64 2>/dev/null && sync" >/dev/null || fail "write $2"
    [ "$(sum "$1")" != "$old" ] || fail "nothing was written to $2"
    same "$1" "$2"
}
same /tmp/disk1 /dev/xvda || fail "file disk"
same /tmp/disk2 /dev/xvdb || fail "physical disk"
fill /tmp/disk1 /dev/xvda || fail "writes to the file"
fill /tmp/disk2 /dev/xvdb || fail "writes to the device"
ok disks

xl block-attach one file:/tmp/disk3 xvdc w || fail block-attach
wait_for 30 in_guest one "[ -b /dev/xvdc ]" >/dev/null || fail "the disk appears"
same /tmp/disk3 /dev/xvdc || fail "attached disk"
fill /tmp/disk3 /dev/xvdc || fail "writes to the attached disk"
is "$(xl block-list one | grep -c vbd)" 3 || fail block-list
xl block-detach one xvdc || fail block-detach
in_guest one "[ ! -e /dev/xvdc ]" >/dev/null || fail "the disk is gone"
same /tmp/disk1 /dev/xvda || fail "the others stay"
ok "disk hotplug"

in_guest one "ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up" >/dev/null || fail "eth0"
ping -c 2 -q 10.9.0.2 >/dev/null || fail "ping the guest"
in_guest one "ping -c 2 -q 10.9.0.1" >/dev/null || fail "ping dom0"
# To the guest and back again.
httpd -p 7000 -h /tmp || fail httpd
in_guest one "wget -q -O /tmp/got http://10.9.0.1:7000/disk3; md5sum /tmp/got" | grep -q "$(sum /tmp/disk3)" ||
    fail "data to the guest"
in_guest one "httpd -p 7001 -h /tmp" >/dev/null || fail "httpd in the guest"
wget -q -O /tmp/back http://10.9.0.2:7001/got || fail "data from the guest"
is "$(sum /tmp/back)" "$(sum /tmp/disk3)" || fail "data from the guest"
ok network

xl network-attach one bridge=xenbr0 mac=00:16:3e:00:00:02 || fail network-attach
wait_for 30 in_guest one "[ -e /sys/class/net/eth1 ]" >/dev/null || fail "the interface appears"
in_guest one "ip link set eth0 down; ip addr add 10.9.0.3/24 dev eth1; ip link set eth1 up" >/dev/null || fail "eth1"
wait_for 30 ping -c 1 -q 10.9.0.3 >/dev/null || fail "ping the new interface"
is "$(xl network-list one | grep -c vif)" 2 || fail network-list
xl network-detach one 1 || fail network-detach
in_guest one "[ ! -e /sys/class/net/eth1 ]" >/dev/null || fail "the interface is gone"
ok "network hotplug"

xentop -b -i 1 -f | awk '$1 == "one" { print; exit !($9 == 2 && $11 > 0 && $12 > 0 && $13 == 2 && $15 > 0) }' || { xentop -b -i 1 -f; fail xentop; }
ok xentop

xl shutdown -w one >/dev/null || fail shutdown
gone() { ! xl list one >/dev/null 2>&1; }
wait_for 30 gone || { xl list; fail "it is gone"; }
losetup -d /dev/loop5
is "$(xenstore-ls /local/domain/0/backend 2>/dev/null | grep -c 'frontend = ')" 0 || fail "back ends are left"
ok shutdown
