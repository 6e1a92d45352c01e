# The life of a guest: Debian's xl creates it, it boots Debian's kernel to user space, is paused, and goes.
. /etc/testlib.sh

guest one
xl create -q /tmp/one.cfg || fail "create: $(xl list)"
ok create
guest_says one "RADON-TEST: guest userspace up" 60 || { show_guest one; fail boot; }
ok boot
xl pause one || fail pause
xl list one | grep -q -- '-[b-]p---' || { xl list; fail "pause shows"; }
xl unpause one || fail unpause
ok pause
xl destroy one || fail destroy
xl list one 2>/dev/null && fail "destroyed, but still there"
ok destroy

# Memory and everything else came back: a second one starts where the first was, and ends by itself.
free_before=$(xl info free_memory)
guest two "vcpus=2" "cmdline='console=hvc0 quiet radon.script=/etc/exit.sh'"
xl create -q /tmp/two.cfg || fail "create again"
gone() { ! xl list two >/dev/null 2>&1; }
wait_for 90 gone || { show_guest two; fail poweroff; }
grep -q "RADON-TEST: script exit 0" "$(console_of two)" || { show_guest two; fail "poweroff, but without its script"; }
ok poweroff
check "memory returned" is "$(xl info free_memory)" "$free_before"
