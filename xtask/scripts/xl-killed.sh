# Tools that are killed at any moment of create, destroy, save and migrate: what they leave, xl destroy takes away, and
# all memory comes back. radon.rounds= repeats it all, with other delays.
. /etc/testlib.sh

rounds=$(argument rounds 1)
# What dom0's kernel takes once for foreign memory, it keeps.
tenant victim
xl create -q /tmp/victim.cfg && xl destroy victim || fail "create and destroy"
note_memory
# All domains but dom0 can be destroyed, by number: they may have no name yet.
clean() {
    for id in $(xl list | awk 'NR > 2 { print $2 }'); do
        [ "$id" = 0 ] || xl destroy "$id" 2>/dev/null
    done
    nothing_left() { [ "$(xl list | wc -l)" = 2 ]; }
    wait_for 120 nothing_left || { xl list; fail "what is left after $1 is destroyed"; }
    memory_back "after $1"
}
# killed MICROSECONDS COMMAND...: runs it, kills it after a while.
killed() {
    delay=$1
    shift
    "$@" >/dev/null 2>&1 &
    usleep "$delay"
    kill -9 $! 2>/dev/null
    wait $! 2>/dev/null
}

round=0
while [ $round -lt "$rounds" ]; do
    more=$((round * 7777))
    for delay in 0 20000 60000 120000 200000 300000 450000 700000 1000000 1500000; do
        killed $((delay + more)) xl create -q /tmp/victim.cfg
        clean "create for $((delay + more)) µs"
    done
    echo "SOAK round $round: create"
    for delay in 0 10000 30000 60000 100000 200000; do
        xl create -q -p /tmp/victim.cfg || fail "create a victim"
        killed $((delay + more)) xl destroy victim
        clean "destroy for $((delay + more)) µs"
    done
    echo "SOAK round $round: destroy"
    round=$((round + 1))
done
ok "create and destroy"

helper() { pidof libxl-save-helper >/dev/null; }
# The tools of a save or a migration are killed while memory is copied.
break_off() {
    what=$1
    shift
    if ! xl list one >/dev/null 2>&1 || xl list one | grep -q -e '---s'; then
        xl destroy one 2>/dev/null
        starts one
    fi
    "$@" >/dev/null 2>&1 &
    tool=$!
    wait_for 120 helper || fail "no helper copies memory: $what"
    usleep $((200000 + round * 77777))
    case $what in
    xl*) kill -9 $tool ;;
    *helper*) kill -9 $(pidof libxl-save-helper) || fail "no helper to kill" ;;
    *receiver*) kill -9 "$(cat /run/receiver)" || fail "no receiver to kill" ;;
    esac
    wait $tool 2>/dev/null
    for name in one--incoming; do
        xl destroy $name 2>/dev/null
    done
    echo "SOAK $what: $(xl list | grep '^one')"
}
guest one
round=0
while [ $round -lt "$rounds" ]; do
    break_off "xl saves" xl save one /tmp/saved
    break_off "helper of save" xl save one /tmp/saved
    break_off "xl migrates" xl migrate -s '' one 'xl migrate-receive'
    break_off "helpers of migrate" xl migrate -s '' one 'xl migrate-receive'
    break_off "receiver of migrate" xl migrate -s '' one 'echo $$ >/run/receiver; exec xl migrate-receive'
    rm -f /tmp/saved
    round=$((round + 1))
    # From the second round on dom0 has them all.
    if [ $round -gt 1 ]; then
        xl destroy one
        memory_back "after round $round"
    elif [ "$rounds" -gt 1 ]; then
        xl destroy one
        sleep 5
        note_memory
    fi
done
ok "save and migrate"
# For what was mapped in saves and migrations dom0 itself has tables that it did not have at first.
less=$((free_before - 64))
memory_is_back() { [ "$(probe free-pages)" -ge "$less" ]; }
clean all
ok "memory returned"
