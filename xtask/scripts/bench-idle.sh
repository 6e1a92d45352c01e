# How often an idle host is woken, with more and more idle guests: whoever runs the machine counts, in a log that it begins when it
# reads "begin" (there is work for some seconds then) and ends when it reads "end".
count() {
    echo "BENCH-IDLE begin $1"
    dd if=/dev/zero bs=1M count=200 2>/dev/null | md5sum >/dev/null
    probe idle 20 || fail "idle $1"
    echo "BENCH-IDLE end $1"
}
count 0
bench_guest g1 radon.bench=idle
xl create -q /tmp/g1.cfg || fail "create g1"
guest_says g1 "BENCH done" 120 || { show_guest g1; fail "g1 boots"; }
count 1
# The others are copies of it: a guest that comes back takes a sixth of the work of one that boots.
xl save g1 /tmp/image >/tmp/run.log 2>&1 || { cat /tmp/run.log; fail save; }
n=0
while [ $n -lt "$(argument guests 64)" ]; do
    n=$((n + 1))
    bench_guest g$n radon.bench=idle
    xl restore /tmp/g$n.cfg /tmp/image >/tmp/run.log 2>&1 || { cat /tmp/run.log; fail "restore g$n"; }
    case $n in 8 | 64) count $n ;; esac
done
true
