# Guests are created and destroyed, radon.rounds= of them: then exactly as much memory is free as before. Each 50th runs.
. /etc/testlib.sh

rounds=$(argument rounds 1000)
tenant one
# What dom0's kernel takes once for foreign memory, it keeps.
xl create -q /tmp/one.cfg && xl destroy one || fail "create and destroy"
note_memory
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
memory_back "after $rounds guests"
ok "memory returned"
