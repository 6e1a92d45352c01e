# How often an idle host is woken, with more and more idle guests: whoever runs the machine counts, in a log that it begins when it
# reads "begin" (there is work for some seconds then) and ends when it reads "end".
count() {
    echo "BENCH-IDLE begin $1"
    dd if=/dev/zero bs=1M count=200 2>/dev/null | md5sum >/dev/null
    probe idle 20 || fail "idle $1"
    echo "BENCH-IDLE end $1"
}
count 0
n=0
while [ $n -lt "$(argument guests 8)" ]; do
    n=$((n + 1))
    bench_guest g$n radon.bench=idle
    xl create -q /tmp/g$n.cfg || fail "create g$n"
    guest_says g$n "BENCH done" 120 || { show_guest g$n; fail "g$n boots"; }
    case $n in 1 | 8 | 64) count $n ;; esac
done
true
