# Shares of CPU time as xl sees them: two busy guests on a CPU of their own, with weights 1:2, then one with a cap.
. /etc/testlib.sh

free_before=$(xl info free_memory)
for n in 1 2; do
    guest g$n
    starts g$n
done
# Both on CPU 1, all else on CPU 0.
xl vcpu-pin Domain-0 all 0 || fail "pin dom0"
for n in 1 2; do
    xl vcpu-pin g$n all 1 || fail "pin g$n"
    in_guest g$n "{ while :; do :; done & }" >/dev/null || fail "load in g$n"
done
# CPU time of both (tenths of a second) and the time by the clock (hundredths).
usage() {
    echo "$(xl vcpu-list | awk '/^g1/ { a = $6 } /^g2/ { b = $6 } END { print a * 10, b * 10 }') $(cut -d' ' -f1 /proc/uptime | tr -d .)"
}
# measure SECONDS: share = what g2 got of both's time, of_time = what it got of the CPU's (both per mille).
measure() {
    sleep 2
    set -- "$1" $(usage)
    sleep "$1"
    set -- "$@" $(usage)
    first=$(($5 - $2))
    second=$(($6 - $3))
    clock=$(($7 - $4))
    share=$((second * 1000 / (first + second)))
    of_time=$((second * 10000 / clock))
    echo "g1 had $first, g2 $second tenths of a second of $clock hundredths"
}
# within 3 %: VALUE EXPECTED
near() { [ $(($1 * 100)) -ge $(($2 * 97)) ] && [ $(($1 * 100)) -le $(($2 * 103)) ] || { echo "$1 is not near $2"; false; }; }
xl sched-credit2 -d g1 -w 256 || fail weight
xl sched-credit2 -d g2 -w 512 || fail weight
measure 30
near $share 667 && near $((1000 - share)) 333 || fail "weights 256:512"
ok weights
xl sched-credit2 -d g1 -w 256
xl sched-credit2 -d g2 -w 256 -c 50 || fail cap
xl pause g1
measure 30
near $of_time 500 || fail "a cap of 50"
ok cap
xl destroy g1
xl destroy g2
xl vcpu-pin Domain-0 all all
memory_is_back() { [ "$(xl info free_memory)" = "$free_before" ]; }
wait_for 20 memory_is_back || { xl info free_memory; fail "memory of $free_before MiB returned"; }
ok "memory returned"
