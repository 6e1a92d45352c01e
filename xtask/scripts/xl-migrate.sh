# A guest with two CPUs moves to the same host, while it writes to memory and to its disk. Where that fails it goes on.
. /etc/testlib.sh

# What the guest says. The console daemon names the log by the name that a guest had first.
log=/tmp/mover.log
said() { cat /var/log/xen/console/guest-mover*.log >$log; }
last() { said; sed -n 's/^load \([0-9]*\).*/\1/p' $log | sort -n | tail -n 1; }
beyond() { [ "$(last)" -ge "$1" ]; }
give_up() {
    cat /tmp/migrate.log
    said
    tail -n 40 $log
    xl list
    xl dmesg | tail -n 20
    fail "$1"
}
goes_on() {
    reached=$(last)
    wait_for 90 beyond $((reached + 4)) || give_up "$1: does not go on after $reached"
    if grep BAD $log; then give_up "$1: damage"; fi
}

dd if=/dev/zero of=/tmp/disk bs=1M count=8 2>/dev/null
guest mover "vcpus=2" "disk=['/tmp/disk,raw,xvda,rw']" "cmdline='console=hvc0 quiet radon.script=/etc/load.sh'"
xl create -q /tmp/mover.cfg || fail create
wait_for 90 beyond 5 2>/dev/null || give_up boot
ok boot
for round in 1 2; do
    before=$(xl domid mover)
    xl migrate -s '' mover 'xl migrate-receive' >/tmp/migrate.log 2>&1 || give_up "migrate $round"
    [ "$(xl domid mover)" != "$before" ] || give_up "migrate $round: the same domain"
    goes_on "migrate $round"
    ok "migrate $round"
done

# A target that gets half of it, one that is killed, and one that never starts the guest: the source goes on.
here=$(xl domid mover)
stays() {
    [ "$(xl domid mover)" = "$here" ] || give_up "$1: the guest is gone"
    goes_on "$1"
    xl list mover--incoming >/dev/null 2>&1 && { xl destroy mover--incoming || give_up "$1: what is left"; }
    ok "$1"
}
xl migrate -s '' mover 'head -c 8000000 | xl migrate-receive' >/tmp/migrate.log 2>&1 && give_up "broken stream"
stays "broken stream"
xl migrate -s '' mover 'exec timeout -s KILL 3 xl migrate-receive' >/tmp/migrate.log 2>&1 && give_up "target killed"
stays "target killed"
xl migrate -s '' mover 'xl migrate-receive </dev/null 2>/dev/null | head -n 1; cat >/dev/null' >/tmp/migrate.log 2>&1 &&
    give_up "never started"
stays "never started"
# And it still hears what it is told.
xl shutdown -w mover >/tmp/migrate.log 2>&1 &
gone() { ! xl list mover >/dev/null 2>&1; }
wait_for 60 gone || give_up shutdown
ok shutdown
