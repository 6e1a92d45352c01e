# Eight guests on two CPUs work for radon.seconds= and more: each of them goes on, what they keep in memory and on disks stays what
# it is, and dom0's tools answer.
. /etc/testlib.sh

seconds=$(argument seconds 3600)
for n in 1 2 3 4 5 6 7 8; do
    dd if=/dev/zero of=/tmp/disk$n bs=1M count=8 2>/dev/null
    guest g$n "vcpus=$((1 + n % 2))" "disk=['/tmp/disk$n,raw,xvda,rw']" "cmdline='console=hvc0 quiet radon.script=/etc/load.sh radon.rest=10000'"
    # All start together: libxl gives a hotplug script 10 s, which is short beside guests at work in an emulator.
    xl create -qp /tmp/g$n.cfg || fail "create g$n"
done
for n in 1 2 3 4 5 6 7 8; do xl unpause g$n || fail "unpause g$n"; done
# The last count of a guest, and whether it is higher than its count before, which it then becomes.
count() { grep '^load ' "$(console_of g$1)" | awk 'END { print $2 + 0 }'; }
went_on() {
    now=$(count $1)
    eval "before=\${count$1:-0}"
    [ "$now" -gt "$before" ] && eval "count$1=$now"
}
for n in 1 2 3 4 5 6 7 8; do wait_for 1200 went_on $n || { show_guest g$n; fail "g$n boots"; }; done
until=$(($(uptime_seconds) + seconds))
round=0
longest=0
while :; do
    round=$((round + 1))
    for n in 1 2 3 4 5 6 7 8; do
        wait_for 240 went_on $n || { show_guest g$n; fail "g$n goes on in round $round"; }
        grep BAD "$(console_of g$n)" && fail "damage in g$n"
    done
    start=$(uptime_seconds)
    is "$(xl list | wc -l)" 10 || { xl list; fail "all are listed"; }
    xl vcpu-list >/dev/null || fail vcpu-list
    took=$(($(uptime_seconds) - start))
    [ $took -gt $longest ] && longest=$took
    [ $longest -lt 60 ] || fail "xl took $longest s"
    echo "SOAK round $round: counts $count1 $count2 $count3 $count4 $count5 $count6 $count7 $count8; xl took at most $longest s"
    [ "$(uptime_seconds)" -lt $until ] || break
    sleep 20
done
ok responsive
for n in 1 2 3 4 5 6 7 8; do xl destroy g$n || fail "destroy g$n"; done
dmesg -r | grep '^<[0-4]>' | grep -v 'hrtimer: interrupt took' | tail -n 5
ok end
