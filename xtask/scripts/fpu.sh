# Floating point in dom0 and in a guest at once: registers keep what they were given, and arithmetic repeats itself.
. /etc/testlib.sh

# The guest has more processes than CPUs, and so has dom0, so that each CPU switches between several of both.
(cd / && echo usr/bin/probe | cpio -o -H newc >>/boot/guest.cpio 2>/dev/null)
guest fpu "vcpus=2" "cmdline='console=hvc0 quiet radon.script=/etc/fpu.sh'"
xl create -q /tmp/fpu.cfg || fail "create: $(xl list)"
guest_says fpu "RADON-TEST: guest userspace up" 300 || { show_guest fpu; fail boot; }
probe fpu 25 4 || { show_guest fpu; fail "dom0's floating point"; }
ok "dom0's floating point"
guest_says fpu "RADON-TEST: script exit" 120 || { show_guest fpu; fail "the guest does not end"; }
grep "probe:" "$(console_of fpu)"
grep -q "RADON-TEST: script exit 0" "$(console_of fpu)" || { show_guest fpu; fail "the guest's floating point"; }
[ "$(argument keys 0)" = 0 ] || grep -q "probe: .*protection keys" "$(console_of fpu)" || fail "the guest has protection keys"
ok "the guest's floating point"
