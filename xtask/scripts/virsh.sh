# Debian's libvirt manages a guest with virsh.
. /etc/testlib.sh

/etc/libvirt/start || fail libvirtd
export LIBVIRT_DEFAULT_URI=xen:///system
log=/tmp/virsh.log
# quiet COMMAND...: a virsh command that must work.
quiet() {
    virsh "$@" >$log 2>&1 && return
    cat $log
    tail -n 20 /var/log/libvirt/libxl/libxl-driver.log /var/log/libvirt/libvirtd.log
    show_guest one
    fail "virsh $1"
}
# field COMMAND NAME: what a virsh command says after "NAME:".
field() { virsh $1 one | sed -n "s/^$2: *//p"; }
state() { virsh domstate --reason one | head -n 1; }

virsh version | grep -q "hypervisor: Xen 4.17" || { virsh version; fail version; }
virsh capabilities | grep -q "machine='xenpvh'\|<machine>xenpvh" || { virsh capabilities; fail capabilities; }
is "$(virsh nodeinfo | sed -n 's/^CPU(s): *//p')" 2 || fail nodeinfo
virsh list | grep -q '0 *Domain-0 *running' || { virsh list; fail list; }
ok host

dd if=/dev/urandom of=/tmp/disk bs=1M count=2 2>/dev/null
sum=$(md5sum </tmp/disk | cut -d' ' -f1)
cat >/tmp/one.xml <<X
<domain type='xen'>
  <name>one</name>
  <memory unit='MiB'>128</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='xenpvh'>xenpvh</type>
    <kernel>/boot/vmlinuz</kernel>
    <initrd>/boot/guest.cpio</initrd>
    <cmdline>console=hvc0 quiet</cmdline>
  </os>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <disk type='block' device='disk'><source dev='/dev/loop5'/><target dev='xvda' bus='xen'/></disk>
    <console type='pty'><target type='xen' port='0'/></console>
  </devices>
</domain>
X
losetup /dev/loop5 /tmp/disk
quiet define /tmp/one.xml
is "$(state)" "shut off (unknown)" || fail "state before start"
quiet start one
guest_says one "BusyBox shell" 120 || { show_guest one; fail boot; }
is "$(state)" "running (booted)" || fail "state after start"
ok start

is "$(field dominfo 'OS Type')" xenpvh || fail dominfo
is "$(field dominfo 'CPU(s)')" 2 || fail dominfo
[ "$(field dominfo 'Max memory')" = "131072 KiB" ] || fail dominfo
is "$(virsh vcpuinfo one | grep -c '^VCPU: ')" 2 || { virsh vcpuinfo one; fail vcpuinfo; }
is "$(virsh ttyconsole one | head -n 1)" "$(xenstore-read "/local/domain/$(xl domid one)/console/tty")" || fail ttyconsole
is "$(in_guest one "md5sum /dev/xvda" | cut -d' ' -f1)" "$sum" || fail disk
ok information

# The scenario types here, when it sees what the guest says.
in_guest one "{ while sleep 1; do echo still he''re; done & }" >/dev/null || fail "a guest that talks"
setsid cttyhack virsh console one || fail console
in_guest one true || fail "the guest after its console"
ok console

quiet suspend one
is "$(state)" "paused (user)" || fail suspend
xl list one | grep -q -- '-[b-]p---' || { xl list; fail "suspend is a pause"; }
quiet resume one
is "$(state)" "running (unpaused)" || fail resume
in_guest one true || fail "resume: no answer"
quiet vcpupin one 0 1
quiet schedinfo one --set weight=512
is "$(xl sched-credit2 -d one | awk 'END { print $3 }')" 512 || fail schedinfo
quiet setvcpus one 1 --live
one_cpu() { [ "$(in_guest one nproc | tail -n 1)" = 1 ]; }
wait_for 60 one_cpu || fail setvcpus
quiet setmem one 100M --live
memory_is() { [ "$(column one 3)" = 100 ]; }
wait_for 60 memory_is || { xl list; fail setmem; }
ok control

in_guest one "echo kept >/tmp/kept" >/dev/null || fail "a file"
quiet save one /tmp/one.save
virsh list --name | grep -q one && fail "saved, but still there"
quiet restore /tmp/one.save
rm /tmp/one.save
is "$(in_guest one "cat /tmp/kept" | tail -n 1)" kept || { show_guest one; fail "restore: another guest"; }
is "$(in_guest one "md5sum /dev/xvda" | cut -d' ' -f1)" "$sum" || fail "restore: disk"
ok "save and restore"

quiet shutdown one
gone() { ! xl list one >/dev/null 2>&1; }
wait_for 60 gone || { show_guest one; fail shutdown; }
off() { [ "$(state)" = "shut off (shutdown)" ]; }
wait_for 20 off || { state; fail "shutdown shows"; }
quiet start one
quiet destroy one
gone || { xl list; fail destroy; }
is "$(state)" "shut off (destroyed)" || fail "destroy shows"
quiet undefine one
virsh list --all --name | grep -q one && fail undefine
ok "shutdown and destroy"
