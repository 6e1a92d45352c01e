# Guests with 4 to 1 CPUs move to the same host, again and again, under load of memory, disk and network.
. /etc/testlib.sh

rounds=$(argument rounds 20)
ip link add xenbr0 type bridge
ip addr add 10.9.0.1/24 dev xenbr0
ip link set xenbr0 up
# Who moves guests must not wait behind all they do.
xl sched-credit2 -d 0 -w 2048 || fail "dom0's weight"
seq 300000 >/tmp/payload
sum=$(md5sum </tmp/payload | cut -d' ' -f1)
printf '#!/bin/sh\ncat /tmp/payload\n' >/tmp/serve
chmod +x /tmp/serve
nc -ll -p 5000 -e /tmp/serve &
server=$!

# The guest's own words; the console daemon names the log by the name that a guest had first.
log=/tmp/said
said() { cat "/var/log/xen/console/guest-$name"*.log >$log 2>/dev/null; }
give_up() {
    cat /tmp/migrate.log
    said
    tail -n 30 $log
    xl list
    tail -n 20 /var/log/xen/xen-hotplug.log
    fail "$name round $round: $1"
}
# Each worker has done more rounds than last time.
workers() {
    said
    if grep BAD $log; then give_up damage; fi
    now=$(grep '^load ' $log | sort -n -k 2 | tail -n 1)
    for worker in $wanted; do
        old=$(echo "$before" | sed -n "s/.*load\.$worker:\([0-9]*\).*/\1/p")
        new=$(echo "$now" | sed -n "s/.*load\.$worker:\([0-9]*\).*/\1/p")
        [ "${new:-0}" -gt "${old:-0}" ] || return 1
    done
}

for vcpus in 4 3 2 1; do
    name=mover$vcpus
    round=0
    before=
    dd if=/dev/zero of=/tmp/disk$vcpus bs=1M count=8 2>/dev/null
    guest $name "vcpus=$vcpus" "memory=160" "disk=['/tmp/disk$vcpus,raw,xvda,rw']" "vif=['bridge=xenbr0']" \
        "cmdline='console=hvc0 quiet radon.script=/etc/load.sh radon.rest=200000 radon.address=10.9.0.2 radon.net=10.9.0.1:5000:$sum'"
    xl create -q /tmp/$name.cfg >/tmp/migrate.log 2>&1 || give_up create
    wanted="disk net $(seq 0 $((vcpus - 1)))"
    wait_for 120 workers || give_up start
    while [ $round -lt "$rounds" ]; do
        round=$((round + 1))
        before=$now
        start=$(uptime_seconds)
        xl migrate -s '' $name 'xl migrate-receive' >/tmp/migrate.log 2>&1 || give_up migrate
        took=$(($(uptime_seconds) - start))
        wait_for 120 workers || give_up "does not go on"
        # Whole and broken migrations alternate.
        if [ $((round % 4)) = 2 ]; then
            xl migrate -s '' $name 'exec timeout -s KILL 2 xl migrate-receive' >/tmp/migrate.log 2>&1 &&
                give_up "migrated to nowhere"
            xl list $name--incoming >/dev/null 2>&1 && { xl destroy $name--incoming || give_up "what is left"; }
            before=$now
            wait_for 120 workers || give_up "does not go on after a broken one"
        fi
        echo "SOAK $name round $round: moved in $took s; $now"
    done
    xl shutdown $name >/tmp/migrate.log 2>&1
    # xl stops watching a guest whose migration broke off late: then nobody takes away what is left.
    gone() { ! xl list $name >/dev/null 2>&1 || { xl list $name | grep -q -e '---s--' && xl destroy $name; }; }
    wait_for 90 gone || give_up shutdown
    ok "$vcpus CPUs"
done
kill $server
