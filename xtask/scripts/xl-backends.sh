# What QEMU in dom0 serves to a guest: qcow2 disks, a shared folder (9pfs), a frame buffer with VNC behind it (vfb).
. /etc/testlib.sh

mkdir /tmp/shared
seq 100000 >/tmp/shared/there
qemu-img create -q -f qcow2 /tmp/first.qcow2 8M || fail "qemu-img create"
dd if=/dev/urandom of=/tmp/raw bs=1M count=4 2>/dev/null
qemu-img convert -O qcow2 /tmp/raw /tmp/second.qcow2 || fail "qemu-img convert"
guest one "disk=['/tmp/first.qcow2,qcow2,xvda,w']" "p9=['tag=share,path=/tmp/shared,security_model=none']" \
    "vfb=['vnc=1,vnclisten=127.0.0.1']"
starts one
ok boot

sum() { md5sum "$1" | cut -d' ' -f1; }
guest_sum() { in_guest one "md5sum $1" | awk -v f="$1" '$2 == f { print $1 }'; }
in_guest one "seq 500000 | head -c 2097152 | dd of=/dev/xvda bs=64k seek=32 2>/dev/null && sync" >/dev/null || fail "write qcow2"
xl block-attach one format=qcow2,vdev=xvdb,access=rw,target=/tmp/second.qcow2 || fail block-attach
wait_for 60 in_guest one "[ -b /dev/xvdb ]" >/dev/null || fail "the disk appears"
is "$(guest_sum /dev/xvdb)" "$(sum /tmp/raw)" || fail "read the attached qcow2"
xl block-detach one xvdb || fail block-detach
in_guest one "[ ! -e /dev/xvdb ]" >/dev/null || fail "the disk is gone"
ok "qcow2 disks"

in_guest one "modprobe -a 9p 9pnet_xen && mount -t 9p -o trans=xen,version=9p2000.L share /mnt" >/dev/null || fail "mount 9pfs"
is "$(guest_sum /mnt/there)" "$(sum /tmp/shared/there)" || fail "read from 9pfs"
in_guest one "seq 5 200000 | dd of=/mnt/back obs=64k 2>/dev/null && umount /mnt" >/dev/null || fail "write to 9pfs"
is "$(sum /tmp/shared/back)" "$(seq 5 200000 | md5sum | cut -d' ' -f1)" || fail "what was written to 9pfs"
ok 9pfs

# All white, but for the console's cursor.
bytes=$((800 * 600 * 3))
white() {
    xl qemu-monitor-command one "screendump /tmp/screen" >/dev/null || return 1
    [ "$(tail -c $bytes /tmp/screen | tr -dc '\377' | wc -c)" -gt $((bytes - 2000)) ]
}
white && fail "white before it was painted"
is "$(head -c 15 /tmp/screen | tr '\n' ' ')" "P6 800 600 255 " || fail screen
in_guest one "tr '\000' '\377' </dev/zero | head -c $((800 * 600 * 4)) >/dev/fb0" >/dev/null || fail "paint"
wait_for 30 white || fail "what the guest painted"
is "$(sleep 2 | nc -w 5 127.0.0.1 5900 | head -c 7)" "RFB 003" || fail VNC
ok vfb

# Another QEMU serves the restored guest's disk and screen.
xl save one /tmp/one.save >/tmp/save.log 2>&1 || { cat /tmp/save.log; show_guest one; fail save; }
gone() { ! xl list one >/dev/null 2>&1 && ! ps | grep -q '[x]en-qemu-system'; }
wait_for 60 gone || { xl list; ps; fail "the saved guest is gone, and QEMU too"; }
xl restore /tmp/one.save >/tmp/restore.log 2>&1 || { cat /tmp/restore.log; fail restore; }
rm /tmp/one.save
part() { echo "dd if=/dev/xvda bs=64k skip=$1 count=16 2>/dev/null | md5sum"; }
is "$(in_guest one "echo 3 >/proc/sys/vm/drop_caches; $(part 32)" | grep -o '^[0-9a-f]*')" \
    "$(seq 500000 | head -c 1048576 | md5sum | cut -d' ' -f1)" || fail "read qcow2 after it was restored"
in_guest one "seq 600000 | head -c 1048576 | dd of=/dev/xvda bs=64k seek=64 2>/dev/null && sync" >/dev/null ||
    fail "write qcow2 after it was restored"
wait_for 60 white || fail "the screen after it was restored"
ok "save and restore"

xl shutdown -w one >/dev/null || fail shutdown
wait_for 60 gone || { xl list; ps; fail "it is gone, and QEMU too"; }
qemu-img check -q /tmp/first.qcow2 || fail "the image is damaged"
qemu-img convert -O raw /tmp/first.qcow2 /tmp/raw || fail convert
is "$(dd if=/tmp/raw bs=64k skip=32 count=32 2>/dev/null | md5sum)" "$(seq 500000 | head -c 2097152 | md5sum)" ||
    fail "what was written to qcow2"
is "$(dd if=/tmp/raw bs=64k skip=64 count=16 2>/dev/null | md5sum)" "$(seq 600000 | head -c 1048576 | md5sum)" ||
    fail "what was written to qcow2 after it was restored"
is "$(xenstore-ls /local/domain/0/backend 2>/dev/null | grep -c 'frontend = ')" 0 || fail "back ends are left"
ok shutdown
