# What a guest does for "cargo xtask bench macro": radon.bench= says what. Says "BENCH name nanoseconds" for dom0 to read.
. /etc/testlib.sh
say() { echo "BENCH $1 $(($3 - $2))"; }

# Some hundred small processes that make, change, sort and pack files, as a build does.
build() {
    mkdir -p /tmp/build
    n=0
    while [ $n -lt 24 ]; do
        n=$((n + 1))
        seq $((n * 1000)) $((n * 1000 + 1200)) >/tmp/build/$n.txt
        awk '{ print "int f" $1 "(int x) { return x * " $1 * 7 % 1000 "; }" }' /tmp/build/$n.txt >/tmp/build/$n.c
        sed -e 's/int/long/g' -e 's/return/return 1 +/' /tmp/build/$n.c | sort -r >/tmp/build/$n.i
        gzip -c /tmp/build/$n.i >/tmp/build/$n.o
        md5sum /tmp/build/$n.o >/tmp/build/$n.sum
        for step in 1 2 3 4; do test -s "$(dirname /tmp/build/$n.o)/$(basename /tmp/build/$n.o)" && true | cat; done
    done
    cat /tmp/build/*.o | gunzip | tail -n 1
    tar -cf - -C /tmp build | md5sum
    find /tmp/build -name '*.c' | xargs grep -l return | wc -l
    rm -r /tmp/build
}

# All with a rest before: what was begun before is over.
measure() {
    name=$1
    shift
    sync
    sleep 1
    begin=$(probe now)
    "$@" >/dev/null 2>&1 || echo "BENCH failed $name"
    say "$name" "$begin" "$(probe now)"
}

modprobe -a -q xen-blkfront xen-netfront
for word in $(cat /proc/cmdline); do
    case $word in radon.address=*)
        wait_for 30 test -d /sys/class/net/eth0
        ip addr add "${word#*=}/24" dev eth0
        ip link set eth0 up
        ;;
    esac
done
case $(argument bench idle) in
build)
    build >/dev/null 2>&1
    measure build build
    measure build build
    ;;
disk)
    wait_for 30 test -b /dev/xvda
    for n in 1 2; do
        measure disk_write dd if=/dev/zero of=/dev/xvda bs=1M count=64 oflag=direct
        measure disk_read dd if=/dev/xvda of=/dev/null bs=1M count=64 iflag=direct
    done
    ;;
serve) nc -ll -p 5000 -e /etc/sink.sh & ;;
net)
    # radon.to=ADDRESS
    transfer() { dd if=/dev/zero bs=64k count=512 | nc "$(argument to none)" 5000; }
    wait_for 30 nc "$(argument to none)" 5000 </dev/null
    measure net transfer
    measure net transfer
    ;;
esac
echo "BENCH done 0"
: >/run/bench.done
while true; do sleep 1000; done
