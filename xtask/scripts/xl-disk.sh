# A guest reads and writes a disk that dom0 serves from a file.
. /etc/testlib.sh

dd if=/dev/urandom of=/tmp/disk bs=1M count=8 2>/dev/null
sum=$(md5sum </tmp/disk)
guest reader "disk=['/tmp/disk,raw,xvda,rw']" "cmdline='console=hvc0 quiet radon.script=/etc/disk.sh'"
xl create -q /tmp/reader.cfg || { show_guest reader; fail create; }
ok create
guest_says reader "script exit" 90 || { show_guest reader; fail boot; }
grep -q "sum $sum" "$(console_of reader)" || { show_guest reader; echo "expected $sum"; fail read; }
ok read
gone() { ! xl list reader >/dev/null 2>&1; }
wait_for 60 gone || { show_guest reader; fail poweroff; }
# The script wrote a mark into the last sector.
check write is "$(tail -c 512 /tmp/disk | head -c 5)" MARK1
