# Guests that crash leave a core behind: one is gone then, one starts anew.
. /etc/testlib.sh
mount -t tmpfs -o size=600m tmpfs /var/lib/xen/dump
crash() {
    in_guest one "yes found in a page | head -c 1048576 >/tmp/text; echo 1 >/proc/sys/kernel/sysrq" >/dev/null || fail "prepare"
    xl sysrq one c || fail "sysrq c"
}
whole() {
    echo "SOAK $1: $(uptime_seconds) s"
    core=$(ls /var/lib/xen/dump/*one* 2>/dev/null | tail -n 1)
    [ -n "$core" ] || fail "$1: no core"
    is "$(hexdump -v -n 20 -e '20/1 "%02x"' "$core")" 7f454c4602010100010000000000000004003e00 || fail "$1: ELF header"
    [ "$(grep -c '^found in a page$' "$core")" -ge 60000 ] || fail "$1: pages"
    tail -c 400 "$core" | grep -q xen_pages || fail "$1: the sections' names at the end"
    rm "$core"
    ok "$1"
}

guest one "on_crash='coredump-destroy'"
starts one
echo "SOAK crash: $(uptime_seconds) s"
crash
gone() { ! xl list one >/dev/null 2>&1; }
wait_for 3600 gone || { xl list; show_guest one; fail "gone"; }
whole coredump-destroy

guest one "on_crash='coredump-restart'"
starts one
before=$(xl domid one)
echo "SOAK crash: $(uptime_seconds) s"
crash
restarted() { [ "$(xl domid one 2>/dev/null || echo 0)" -gt "$before" ]; }
wait_for 3600 restarted || { xl list; show_guest one; fail "restarted"; }
is "$(in_guest one "echo again here" | grep -c '^again here')" 1 || { show_guest one; fail "comes back"; }
whole coredump-restart
xl destroy one
