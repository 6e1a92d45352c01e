# Load like a build's in a guest, and three that spin beside dom0 on one processor.
bench_guest builder radon.bench=build
xl create -q /tmp/builder.cfg || fail "create builder"
figures builder 300
xl destroy builder
for n in 1 2 3; do
    tenant spin$n "cmdline='spin'"
    xl create -q /tmp/spin$n.cfg || fail "create spin$n"
done
sleep 2
shares=$(probe shares 10) || fail "shares: $shares"
echo "BENCH unfairness ${shares% *}"
