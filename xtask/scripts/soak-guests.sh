# Guests are created and destroyed, radon.rounds= of them: then exactly as much memory is free as before. Each 50th runs.
. /etc/testlib.sh

rounds=1000
for word in $(cat /proc/cmdline); do
    case $word in radon.rounds=*) rounds=${word#*=} ;; esac
done
tenant one
# What dom0's kernel takes once for foreign memory, it keeps.
xl create -q /tmp/one.cfg && xl destroy one || fail "create and destroy"
free_before=$(probe free-pages)
memory_back() { [ "$(probe free-pages)" = "$free_before" ]; }
round=0
while [ $round -lt "$rounds" ]; do
    round=$((round + 1))
    if [ $((round % 50)) = 0 ]; then
        rm -f "$(console_of one)"
        xl create -q /tmp/one.cfg || fail "create $round"
        guest_says one "tenant: 1 vCPUs run" 60 || { show_guest one; fail "$round runs"; }
    else
        xl create -q -p -e /tmp/one.cfg || fail "create $round"
    fi
    xl destroy one || fail "destroy $round"
    [ $((round % 50)) = 0 ] && echo "SOAK $round guests: $(probe free-pages) of $free_before pages are free"
done
wait_for 20 memory_back || { probe free-pages; fail "$free_before free pages after $rounds guests"; }
ok "memory returned"
