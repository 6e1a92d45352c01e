# Load for a guest that is saved, restored or migrated meanwhile: one worker per CPU fills files in memory, another one
# the disk if there is one, another fetches from dom0 if it is told what (radon.net=address:port:md5sum). What was
# written is checked rounds later, when the guest may live elsewhere. Clocks are compared across CPUs.
# Workers rest radon.rest=microseconds after each round. Memory that was never used is filled when the console asks for it.
# Says "load N" each second, with the rounds of the workers; and BAD when something is not as it was.
bad() { echo "BAD $*"; }

# The clock was read by someone before: it must not be less now.
clock() {
    read -r before 2>/dev/null </run/clock
    read -r up _ </proc/uptime
    now=${up%.*}${up#*.}
    [ "$now" -ge "${before:-0}" ] || bad "clock: $now after $before"
    echo "$now" >/run/clock
    read -r date_before 2>/dev/null </run/date
    date_now=$(date +%s)
    [ "$date_now" -ge "${date_before:-0}" ] || bad "date: $date_now after $date_before"
    echo "$date_now" >/run/date
}

memory() {
    round=0
    while true; do
        round=$((round + 1))
        file=/tmp/load.$1.$((round % 8))
        if [ -e "$file" ]; then
            is=$(md5sum <"$file")
            [ "$is" = "$(cat "$file.sum")" ] || bad "memory: worker $1 round $round: $is"
        fi
        seq $round 5 $((round + 100000)) >"$file"
        seq $round 5 $((round + 100000)) | md5sum >"$file.sum"
        clock
        echo $round >"/run/load.$1"
        usleep $rest
    done
}

disk() {
    round=0
    while true; do
        round=$((round + 1))
        slot=$((round % 8))
        if [ -e "/tmp/slot.$slot" ]; then
            is=$(dd if=/dev/xvda bs=64k skip=$((slot * 4)) count=4 iflag=direct 2>/dev/null | md5sum)
            [ "$is" = "$(cat "/tmp/slot.$slot")" ] || bad "disk: round $round: $is"
        fi
        seq $((round * 1000)) $((round * 1000 + 99999)) | head -c 262144 >/tmp/block
        md5sum </tmp/block >"/tmp/slot.$slot"
        dd if=/tmp/block of=/dev/xvda bs=64k seek=$((slot * 4)) conv=notrunc oflag=direct 2>/dev/null || bad "disk: write"
        echo $round >/run/load.disk
        usleep $rest
    done
}

network() {
    host=${1%%:*}
    port=${1#*:}
    sum=${port#*:}
    port=${port%%:*}
    round=0
    while true; do
        round=$((round + 1))
        # Just after a move nobody may answer yet: the new interface is not on the bridge. That is no damage; who waits for
        # this worker's next round sees it if it lasts.
        until nc "$host" "$port" </dev/null >/tmp/fetched; do
            [ -s /tmp/fetched ] && break
            usleep 100000
        done
        is=$(md5sum </tmp/fetched)
        [ "${is%% *}" = "$sum" ] || bad "network: round $round: $is"
        echo $round >/run/load.net
        usleep $rest
    done
}

# Told on the console how many megabytes, fills as much memory that was not in use.
fill() {
    read -r size </dev/console
    dd if=/dev/zero of=/tmp/filled bs=1M count="$size" 2>/dev/null
    is=$(md5sum </tmp/filled)
    [ "$is" = "$(dd if=/dev/zero bs=1M count="$size" 2>/dev/null | md5sum)" ] || bad "memory: filled with zeros: $is"
    echo "filled $size"
}

modprobe -a -q xen-blkfront xen-netfront
fill &
rest=0
for word in $(cat /proc/cmdline); do
    case $word in radon.rest=*) rest=${word#*=} ;; esac
done
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
    number=${cpu##*/cpu}
    memory "$number" &
    taskset -p $((1 << number)) $! >/dev/null
done
# await FILE-TEST FILE: until there is one, for some seconds.
await() {
    left=100
    until [ "$1" "$2" ] || [ $left = 0 ]; do
        left=$((left - 1))
        usleep 100000
    done
}
if ls /sys/bus/xen/devices/vbd-* >/dev/null 2>&1; then
    await -b /dev/xvda
    disk &
fi
for word in $(cat /proc/cmdline); do
    case $word in
        radon.address=*)
            await -d /sys/class/net/eth0
            ip addr add "${word#*=}/24" dev eth0
            ip link set eth0 up
            ;;
        radon.net=*) network "${word#*=}" & ;;
    esac
done
count=0
while true; do
    count=$((count + 1))
    echo "load $count" $(cd /run && grep . load.* /dev/null)
    sleep 1
done
