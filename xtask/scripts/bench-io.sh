# Disk and network of guests. dom0 has the disk in memory.
dd if=/dev/zero of=/tmp/disk bs=1M count=64 2>/dev/null
bench_guest reader radon.bench=disk "disk=['/tmp/disk,raw,xvda,rw']"
xl create -q /tmp/reader.cfg || fail "create reader"
figures reader 120
xl destroy reader
rm /tmp/disk
ip link add xenbr0 type bridge
ip addr add 10.9.0.1/24 dev xenbr0
ip link set xenbr0 up
nc -ll -p 5000 -e /etc/sink.sh &
bench_guest sender "radon.bench=net radon.address=10.9.0.2 radon.to=10.9.0.1" "vif=['bridge=xenbr0']"
xl create -q /tmp/sender.cfg || fail "create sender"
figures sender 120 | sed 's/ net / net_dom0 /'
xl destroy sender
bench_guest sink "radon.bench=serve radon.address=10.9.0.3" "vif=['bridge=xenbr0']"
bench_guest source "radon.bench=net radon.address=10.9.0.4 radon.to=10.9.0.3" "vif=['bridge=xenbr0']"
xl create -q /tmp/sink.cfg || fail "create sink"
guest_says sink "BENCH done" 120 || { show_guest sink; fail sink; }
xl create -q /tmp/source.cfg || fail "create source"
figures source 120 | sed 's/ net / net_guest /'
