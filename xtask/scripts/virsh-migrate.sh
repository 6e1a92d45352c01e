# libvirt moves a guest to another machine and back. Where that fails the guest goes on.
. /etc/testlib.sh
. /etc/cable.sh

# virsh, and who waits for another machine, is silent for longer than a machine may be.
while sleep 10; do echo "uptime $(uptime_seconds)"; done &
# Who moves guests must not wait behind all they do.
xl sched-credit2 -d 0 -w 2048 || fail "dom0's weight"
rounds=$(argument rounds 1)
cable 1
wait_for 300 ping -c 1 -q 10.9.0.2 >/dev/null || fail "the other machine"

export LIBVIRT_DEFAULT_URI=xen:///system
first=xen+tcp://10.9.0.1/system
second=xen+tcp://10.9.0.2/system
log=/tmp/virsh.log
give_up() {
    cat $log
    for place in /var/log/libvirt/libxl/libxl-driver.log /var/log/libvirt/libvirtd.log; do
        tail -n 20 $place
        remote "tail -n 20 $place"
    done
    virsh list --all
    remote 'xl list; tail -n 20 /var/log/xen/console/guest-one.log'
    show_guest one
    fail "$1"
}
# quiet COMMAND...: a virsh command that must work.
quiet() { virsh "$@" >$log 2>&1 || give_up "virsh $*"; }
# guests URI OPTION...: the names of those that virsh lists, and dom0.
guests() { virsh -c "$1" list --name $2 | xargs; }
start_here() { /etc/libvirt/start tcp || fail libvirtd; }
start_other() { remote '/etc/libvirt/start tcp && echo started' | grep -q started || give_up "the other libvirtd"; }
here() { in_guest one "$1"; }
there() { remote ". /etc/testlib.sh; in_guest one '$1'"; }

# goes_on here|there WHEN: the guest answers, counts on, and its memory and its disk are what they were.
count=0
goes_on() {
    found=$($1 "cat /run/count; md5sum </tmp/kept; dd if=/dev/xvda bs=64k count=16 iflag=direct 2>/dev/null | md5sum" | tr -d '\r' | xargs)
    [ "${found%% *}" -gt "$count" ] || { echo "$found"; give_up "$2: counts $1"; }
    count=${found%% *}
    is "${found#* }" "$kept" || give_up "$2: memory and disk $1"
}

start_here
start_other
cat >/tmp/one.xml <<X
<domain type='xen'>
  <name>one</name>
  <memory unit='MiB'>128</memory>
  <vcpu>$(argument vcpus 2)</vcpu>
  <os>
    <type arch='x86_64' machine='xenpvh'>xenpvh</type>
    <kernel>/boot/vmlinuz</kernel>
    <initrd>/boot/guest.cpio</initrd>
    <cmdline>console=hvc0 quiet</cmdline>
  </os>
  <devices>
    <disk type='block' device='disk'><source dev='/dev/nvme0n1'/><target dev='xvda' bus='xen'/></disk>
    <console type='pty'><target type='xen' port='0'/></console>
  </devices>
</domain>
X
quiet define /tmp/one.xml
quiet start one
guest_says one "BusyBox shell" 300 || give_up boot
here "seq 100000 600000 >/tmp/kept; dd if=/tmp/kept of=/dev/xvda bs=64k count=16 oflag=direct" >/dev/null || give_up "files"
here '{ n=0; while usleep 100000; do n=$((n + 1)); echo $n >/run/count.new; mv /run/count.new /run/count; done & }' >/dev/null
kept=$({ seq 100000 600000 | md5sum; seq 100000 600000 | head -c 1048576 | md5sum; } | xargs)
wait_for 60 here "test -e /run/count" || give_up "a guest that counts"
goes_on here start
is "$(guests $second --all)" Domain-0 || give_up "guests there"
ok start

# In the midst of a move the cable is cut, or one of the daemons killed. The other one leaves a helper which takes the rest
# of the guest, so that this ends late: the guest was suspended already. The one here leaves the log of dirty pages on.
sent() { echo $(($(cat "/sys/class/net/$port/statistics/tx_bytes") / 1000000)); }
half_way() { [ "$(sent)" -gt $((start + 20)) ]; }
broken() {
    start=$(sent)
    virsh migrate --live one $second tcp://10.9.0.2 >$log 2>&1 &
    mover=$!
    wait_for 300 half_way || give_up "$1: nothing is sent"
    $2
    wait $mover && give_up "$1: it went"
    cat $log
    virsh version >/dev/null 2>&1 || start_here
    is "$(virsh domstate one | head -n 1)" running || give_up "$1: state"
    goes_on here "$1"
    ok "$1"
    ip link set "$port" up
    wait_for 60 ping -c 1 -q 10.9.0.2 >/dev/null || fail "the cable is whole again"
    remote 'killall -9 libvirtd libxl-save-helper; xl destroy one' >/dev/null 2>&1
    start_other
    is "$(guests $second --all)" Domain-0 || give_up "$1: guests there"
}
cut_cable() { ip link set "$port" down; }
kill_other() { remote 'killall -9 libvirtd' >/dev/null; }
kill_own() { killall -9 libvirtd; }
broken "cable cut" cut_cable
broken "other daemon killed" kill_other
broken "own daemon killed" kill_own

# There the definition goes along; back libvirtd sends to libvirtd, and one is left behind.
round=0
while [ $round -lt "$rounds" ]; do
    round=$((round + 1))
    begin=$(uptime_seconds)
    quiet migrate --live --persistent --undefinesource one $second tcp://10.9.0.2
    is "$(guests $first --all), $(guests $second)" "Domain-0, Domain-0 one" || give_up "guests, there"
    is "$(virsh -c $second domstate --reason one | head -n 1)" "running (migrated)" || give_up "state there"
    goes_on there there
    middle=$(uptime_seconds)
    quiet -c $second migrate --live --p2p --persistent one $first --migrateuri tcp://10.9.0.1
    is "$(guests $first), $(guests $second)" "Domain-0 one, Domain-0" || give_up "guests, back"
    is "$(virsh -c $second domstate --reason one | head -n 1)" "shut off (migrated)" || give_up "state there afterwards"
    is "$(virsh domstate --reason one | head -n 1)" "running (migrated)" || give_up "state here"
    goes_on here back
    quiet -c $second undefine one
    echo "SOAK round $round: there in $((middle - begin)) s, back in $(($(uptime_seconds) - middle)) s"
done
ok "there and back"
quiet destroy one
quiet undefine one
is "$(guests $first --all), $(guests $second --all)" "Domain-0, Domain-0" || give_up "guests at the end"
remote 'touch /tmp/end' >/dev/null
ok destroy
