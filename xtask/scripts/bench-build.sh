# Load like a build's in a guest, and three that spin beside dom0 on one processor. They start when all are there, since a creation
# takes several times as long beside them.
bench_guest builder radon.bench=build
xl create -q /tmp/builder.cfg || fail "create builder"
figures builder 300
xl destroy builder
for n in 1 2 3; do
    tenant spin$n "cmdline='spin'"
    xl create -qp /tmp/spin$n.cfg || fail "create spin$n"
done
for n in 1 2 3; do
    xl unpause spin$n || fail "unpause spin$n"
done
sleep 1
shares=$(probe shares 5) || fail "shares: $shares"
echo "BENCH unfairness ${shares% *}"
