# What Debian's tools say of the machine and its guests.
. /etc/testlib.sh
wants() { echo "$1" | grep -q "$2" || { echo "$1"; fail "no '$2'"; }; }

guest one
starts one

info=$(xl info -n) || fail "info -n"
wants "$info" '^  0: *0 *0 *0'
wants "$info" '^device topology'
wants "$info" '^   0: *[1-9][0-9]* *[1-9][0-9]* *10$'
wants "$(xl uptime one)" 'one .* 0:0[0-9]:'
xenstore-ls "/local/domain/$(xl domid one)" | grep -q '^name = "one"' || fail xenstore-ls
ok info

xl dmesg | grep -q '^(XEN) ' || fail dmesg
xl dmesg -c >/dev/null || fail "dmesg -c"
is "$(xl dmesg)" "" || fail "dmesg after dmesg -c"
xl debug-keys q || fail debug-keys
wants "$(xl dmesg)" "'q' pressed"
wants "$(xl dmesg)" 'domain 1'
ok dmesg

# A guest that does nothing else counts as nearly all of a CPU, then as nearly nothing.
share() { xentop -b -i 2 -d 3 | awk '$1 == "one" { cpu = $4 } END { print int(cpu) }'; }
in_guest one 'while true; do true; done & echo $! >/tmp/busy' >/dev/null || fail "busy guest"
busy=$(share)
[ "$busy" -gt 60 ] && [ "$busy" -lt 103 ] || fail "xentop says $busy % of a busy guest"
in_guest one 'kill $(cat /tmp/busy)' >/dev/null || fail "idle guest"
idle=$(share)
[ "$idle" -lt 40 ] || fail "xentop says $idle % of an idle guest"
seconds=$(xentop -b -i 1 | awk '$1 == "one" { print $3 }')
listed=$(column one 6)
[ "$seconds" -ge "${listed%.*}" ] && [ "$seconds" -le $((${listed%.*} + 3)) ] || fail "xentop: $seconds s, xl: $listed s"
ok xentop

states=$(xenpm get-cpuidle-states)
wants "$states" '^Max possible C-state'
wants "$states" '^C1 '
wants "$(xenpm get-cpu-topology)" '^CPU0'
xen-hptool cpu-offline 99 >/dev/null 2>&1 && fail "CPU 99 offline"
ok xenpm

is "$(xenhypfs cat /buildinfo/version/minor)" 17 || fail "hypfs minor"
is "$(xenhypfs cat /buildinfo/version/major)" 4 || fail "hypfs major"
tree=$(xenhypfs tree) || fail "hypfs tree"
wants "$tree" '^ *gnttab_max_frames$'
wants "$tree" '^ *sched-gran$'
wants "$(xenhypfs ls /)" '^<dir> .* params$'
xenhypfs write /params/gnttab_max_frames 33 || fail "hypfs write"
is "$(xenhypfs cat /params/gnttab_max_frames)" 33 || fail "hypfs reads what was written"
xenhypfs cat /params/nosuch 2>/dev/null && fail "hypfs: no such file"
xenhypfs write /buildinfo/changeset x 2>/dev/null && fail "hypfs: not to be written"
ok hypfs

for trigger in nmi power sleep; do
    xl trigger one $trigger 2>/tmp/trigger || fail "trigger $trigger"
    [ ! -s /tmp/trigger ] || { cat /tmp/trigger; fail "trigger $trigger"; }
done
ok triggers

# What the guest does in two seconds. (The reader's own analysis ends early with either hypervisor now and then.)
in_guest one 'while true; do usleep 100000; done & echo $! >/tmp/busy' >/dev/null || fail "guest that sleeps"
xentrace -D -T 2 /tmp/trace || fail xentrace
in_guest one 'kill $(cat /tmp/busy)' >/dev/null
xenalyze --svm-mode --dump-all /tmp/trace >/tmp/records 2>/tmp/errors
for record in 'runstate_change d1v0 blocked->runnable' 'runstate_change d1v0 runnable->running' \
    'runstate_change d1v0 running->blocked' 'vcpu_wake d1v0' 'vcpu_block d1v0' 'sched_switch prev d.*next d1v0' \
    'd1v0 vmexit exit_reason VMEXIT_HLT' 'd0v0 vmentry'; do
    grep -q "$record" /tmp/records || { tail -n 5 /tmp/records /tmp/errors; fail "no record '$record'"; }
done
ok xentrace
xl destroy one || fail destroy
