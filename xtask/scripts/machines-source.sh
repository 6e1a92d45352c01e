# A guest under load of memory, disk and network moves to another machine and back. Where that fails it goes on.
. /etc/testlib.sh
. /etc/cable.sh

# Who waits for another machine is silent for longer than a machine may be.
while sleep 10; do echo "uptime $(uptime_seconds)"; done &
# Who moves guests must not wait behind all they do.
xl sched-credit2 -d 0 -w 2048 || fail "dom0's weight"
rounds=$(argument rounds 1)
vcpus=$(argument vcpus 2)
cable 1
wait_for 300 ping -c 1 -q 10.9.0.2 >/dev/null || fail "the other machine"
# For scale.
begin=$(uptime_seconds)
dd if=/dev/zero bs=1M count=8 2>/dev/null | nc 10.9.0.2 7002
echo "SOAK network: 8 MB in $(($(uptime_seconds) - begin)) s"
seq 20000 >/tmp/payload
sum=$(md5sum </tmp/payload | cut -d' ' -f1)
printf '#!/bin/sh\ncat /tmp/payload\n' >/tmp/serve
chmod +x /tmp/serve
nc -ll -p 5000 -e /tmp/serve &

# What the guest said, here and there.
log=/tmp/mover.log
said() { { cat /var/log/xen/console/guest-mover*.log; remote 'cat /var/log/xen/console/guest-mover*.log'; } >$log 2>/dev/null; }
give_up() {
    cat /tmp/migrate.log
    said
    tail -n 20 $log
    xl list
    remote 'xl list; cat /tmp/receive.log /tmp/migrate.log; tail -n 20 /var/log/xen/xen-hotplug.log'
    tail -n 20 /var/log/xen/xen-hotplug.log
    fail "$1"
}
# Each worker has done more rounds than at the last call.
before=
workers() {
    said
    if grep BAD $log; then give_up damage; fi
    now=$(grep '^load ' $log | sort -n -k 2 | tail -n 1)
    for worker in $(seq 0 $((vcpus - 1))) disk net; do
        old=$(echo "$before" | sed -n "s/.*load\.$worker:\([0-9]*\).*/\1/p")
        new=$(echo "$now" | sed -n "s/.*load\.$worker:\([0-9]*\).*/\1/p")
        [ "${new:-0}" -gt "${old:-0}" ] || return 1
    done
}
goes_on() {
    said
    before=$(grep '^load ' $log | sort -n -k 2 | tail -n 1)
    wait_for 300 workers || give_up "$1: does not go on"
}
is_here() { xl list mover >/dev/null 2>&1; }
is_there() { remote 'xl list mover' 2>/dev/null | grep -q '^mover '; }

guest mover "vcpus=$vcpus" "disk=['phy:/dev/nvme0n1,xvda,w']" "vif=['bridge=xenbr0,mac=00:16:3e:00:00:01']" \
    "cmdline='console=hvc0 quiet radon.script=/etc/load.sh radon.rest=500000 radon.address=10.9.0.3 radon.net=10.9.0.1:5000:$sum'"
xl create -q /tmp/mover.cfg >/tmp/migrate.log 2>&1 || give_up create
wait_for 300 workers || give_up boot
ok boot

# The target is killed in the midst, then the cable is cut.
sent() { echo $(($(cat "/sys/class/net/$port/statistics/tx_bytes") / 1000000)); }
half_way() { [ "$(sent)" -gt $((start + 20)) ]; }
broken() {
    start=$(sent)
    xl migrate -s '' mover 'nc 10.9.0.2 7000' >/tmp/migrate.log 2>&1 &
    mover=$!
    wait_for 300 half_way || give_up "$1: nothing is sent"
    $2
    wait $mover && give_up "$1: it went"
    is_here || give_up "$1: the guest is gone"
    goes_on "$1"
    ok "$1"
}
kill_target() { remote 'killall -9 xl libxl-save-helper' >/dev/null; }
cut_cable() { ip link set "$port" down; }
broken "target killed" kill_target
remote 'xl destroy mover--incoming' >/dev/null
broken "cable cut" cut_cable
ip link set "$port" up
wait_for 60 ping -c 1 -q 10.9.0.2 >/dev/null || fail "the cable is whole again"
remote 'killall xl; xl destroy mover--incoming' >/dev/null

round=0
while [ $round -lt "$rounds" ]; do
    round=$((round + 1))
    xl migrate -s '' mover 'nc 10.9.0.2 7000' >/tmp/migrate.log 2>&1 || give_up "migrate there"
    is_here && give_up "there: it is here still"
    is_there || give_up "there: it is not there"
    goes_on there
    remote "xl migrate -s '' mover 'nc 10.9.0.1 7000' >/tmp/migrate.log 2>&1 || echo failed" | grep failed && give_up "migrate back"
    is_here || give_up "back: it is not here"
    is_there && give_up "back: it is there still"
    goes_on back
    echo "SOAK round $round: $now"
done
ok "there and back"
xl migrate -s '' mover 'nc 10.9.0.2 7000' >/tmp/migrate.log 2>&1 || give_up "migrate to the end"
remote 'xl shutdown -w mover' >/tmp/migrate.log 2>&1
gone() { ! is_there; }
wait_for 120 gone || give_up shutdown
remote 'touch /tmp/end' >/dev/null
ok shutdown
