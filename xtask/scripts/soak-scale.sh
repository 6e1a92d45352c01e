# radon.rounds= small guests live at once; what the hypervisor needs to make one more, in time and memory, does not grow. The
# machine's clock counts instructions.
. /etc/testlib.sh

guests=$(argument rounds 200)
# What dom0's kernel takes once for foreign memory, it keeps.
tenant one
xl create -q -e /tmp/one.cfg && xl destroy one || fail "create and destroy"
note_memory
first=$(probe guest-cost 64 30) || fail "first cost: $first"
echo "SOAK the first: $first (thousands of instructions of its creation, pages besides its own 64 MiB)"
n=0
while [ $n -lt "$guests" ]; do
    n=$((n + 1))
    tenant g$n "memory=64"
    free=$(probe free-pages)
    xl create -q -e /tmp/g$n.cfg || fail "create g$n"
    [ $((n % 20)) = 1 ] && echo "SOAK guest $n: $(($free - $(probe free-pages))) pages, of these 16384 are its memory"
done
is "$(xl list | wc -l)" $((guests + 2)) || fail "all are listed"
last=$(probe guest-cost 64 30) || fail "last cost: $last"
echo "SOAK the last: $last"
# All of them live.
n=0
while [ $n -lt "$guests" ]; do
    n=$((n + 1))
    guest_says g$n "tenant: beat" 120 || { show_guest g$n; fail "g$n lives"; }
    eval "beats$n=$(grep -c beat "$(console_of g$n)")"
done
n=0
while [ $n -lt "$guests" ]; do
    n=$((n + 1))
    eval "before=\$beats$n"
    more() { [ "$(grep -c beat "$(console_of g$n)")" -gt "$before" ]; }
    wait_for 120 more || { show_guest g$n; fail "g$n lives on"; }
done
ok alive
[ "${last#* }" -le $((${first#* } + 2)) ] || fail "pages: $first at first, $last at last"
[ $((${last% *} * 100)) -le $((${first% *} * 120)) ] || fail "instructions: $first at first, $last at last"
ok "no dearer"
n=0
while [ $n -lt "$guests" ]; do
    n=$((n + 1))
    xl destroy g$n || fail "destroy g$n"
done
# For so many at once dom0 has ports, grants and tables that it keeps: far less than a page for each guest. The hypervisor's heap
# keeps what it grew by, 2 MiB at a time: once, for these guests. Whoever comes later needs nothing more.
most=$((free_before - guests / 8 - 2 - 512))
most_is_back() { [ "$(probe free-pages)" -ge $most ]; }
wait_for 60 most_is_back || { probe free-pages; fail "$most of $free_before free pages"; }
sleep 5
note_memory
echo "SOAK all gone: $free_before pages are free"
n=0
while [ $n -lt $((guests / 4)) ]; do
    n=$((n + 1))
    xl create -q -e /tmp/g$n.cfg || fail "create g$n again"
done
while [ $n -gt 0 ]; do
    xl destroy g$n || fail "destroy g$n again"
    n=$((n - 1))
done
memory_back "at the end"
ok "memory returned"
