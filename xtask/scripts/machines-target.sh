# The second of two machines: does what the first one asks for, until told to end.
. /etc/testlib.sh
. /etc/cable.sh

modprobe -a -q nvme
cable 2
while [ ! -e /tmp/end ]; do
    sleep 5
    # A sign of life.
    echo "uptime $(uptime_seconds)"
done
