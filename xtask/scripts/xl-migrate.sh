# A guest with two CPUs moves to the same host, while it writes to memory and to its disk. Where that fails it goes on.
. /etc/testlib.sh

# What the guest says. The console daemon names the log by the name that a guest had first.
log=/tmp/mover.log
said() { cat /var/log/xen/console/guest-mover*.log >$log 2>/dev/null; }
last() { said; sed -n 's/^load \([0-9]*\).*/\1/p' $log | sort -n | tail -n 1; }
beyond() { [ "$(last)" -ge "$1" ] 2>/dev/null; }
give_up() {
    grep -v -e '^DEBUG' -e 'xc: detail' -e 'xc: info' /tmp/migrate.log | tail -n 12
    said
    tail -n 8 $log
    # Does it still go on? What is it doing?
    sleep 5
    said
    tail -n 1 $log
    xl debug-keys q
    xl debug-keys e
    sleep 1
    xl vcpu-list mover
    xl list
    fail "$1"
}
goes_on() {
    reached=$(last)
    wait_for 60 beyond $((reached + 4)) || give_up "$1: does not go on after $reached"
    if grep BAD $log; then give_up "$1: damage"; fi
}

dd if=/dev/zero of=/tmp/disk bs=1M count=8 2>/dev/null
guest mover "vcpus=2" "disk=['/tmp/disk,raw,xvda,rw']" \
    "cmdline='console=hvc0 quiet radon.script=/etc/load.sh radon.rest=200000'"
xl create -q /tmp/mover.cfg || fail create
wait_for 60 beyond 5 || give_up boot
ok boot
before=$(xl domid mover)
# A guest that is busy may not freeze all its processes in the 20 seconds that its kernel takes for it, nor in libxl's 60:
# it goes on then, and whoever moves it tries again.
moves() { xl migrate -s '' mover 'xl migrate-receive' >/tmp/migrate.log 2>&1; }
if ! moves; then
    grep -q "failed to suspend at sender" /tmp/migrate.log || give_up migrate
    echo "the guest did not suspend in time: once more"
    xl list
    said
    grep -v "^load" $log | tail -n 3
    goes_on "a migration that failed"
    moves || give_up "migrate again"
fi
[ "$(xl domid mover)" != "$before" ] || give_up "migrate: the same domain"
goes_on migrate
ok migrate

# A target that gets a part only, and one that gets all but never starts the guest: the source goes on.
here=$(xl domid mover)
stays() {
    [ "$(xl domid mover)" = "$here" ] || give_up "$1: the guest is gone"
    goes_on "$1"
    xl list mover--incoming >/dev/null 2>&1 && { xl destroy mover--incoming || give_up "$1: what is left"; }
    ok "$1"
}
xl migrate -s '' mover 'head -c 8000000 | xl migrate-receive' >/tmp/migrate.log 2>&1 && give_up "broken stream"
stays "broken stream"
xl migrate -s '' mover 'xl migrate-receive </dev/null 2>/dev/null | head -n 1; cat >/dev/null' >/tmp/migrate.log 2>&1 &&
    give_up "never started"
stays "never started"
# And it still hears what it is told. xl stopped watching it when it was suspended, so nobody takes away what is left.
xl shutdown mover >/tmp/migrate.log 2>&1 || give_up shutdown
off() { xl list mover | grep -q -e "---s--"; }
wait_for 60 off || give_up shutdown
ok shutdown
xl destroy mover || fail destroy
