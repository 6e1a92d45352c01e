# For scripts of two machines joined by a cable: cable 1 and cable 2 give each its address, in a bridge for guests.

# cable NUMBER: the card on the cable is the one with the scenario's own kind of MAC address.
cable() {
    for card in /sys/class/net/eth*; do
        case $(cat "$card/address") in 52:54:00:00:01:*) port=${card##*/} ;; esac
    done
    ip link add xenbr0 type bridge
    # Few large packets are emulated faster than many small ones.
    ip link set "$port" mtu 9000
    ip link set "$port" master xenbr0
    ip link set "$port" up
    ip addr add "10.9.0.$1/24" dev xenbr0
    ip link set xenbr0 up
    # Guests come in at port 7000. What goes to standard error must not get among what goes to the sender.
    printf '#!/bin/sh\nexec xl migrate-receive 2>/tmp/receive.log\n' >/tmp/receive
    # Commands come in at port 7001.
    printf '#!/bin/sh\nread -r line\neval "$line"\n' >/tmp/command
    printf '#!/bin/sh\nexec cat >/dev/null\n' >/tmp/sink
    chmod +x /tmp/receive /tmp/command /tmp/sink
    nc -ll -p 7000 -e /tmp/receive &
    nc -ll -p 7001 -e /tmp/command &
    nc -ll -p 7002 -e /tmp/sink &
    # A connection that was cut is to be noticed in seconds.
    echo 4 >/proc/sys/net/ipv4/tcp_retries2
}

# remote COMMAND: runs it on machine 2 and prints what it says.
remote() { echo "$1" | nc 10.9.0.2 7001; }
