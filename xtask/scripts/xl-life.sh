# What a user does to a running guest, and what the guest does then.
. /etc/testlib.sh

uuid=11111111-2222-3333-4444-555555555555
guest one "uuid='$uuid'" "maxmem=256" "maxvcpus=2" "on_crash='preserve'" "cpuid='host,rdrand=0,sse4_2=0'" "tsc_mode='always_emulate'"
starts one
# It began with half of its memory not populated; what it does not need is returned by its balloon driver.
memory_is() { [ "$(column one 3)" = "$1" ]; }
memory_is 128 || { xl list; fail "128 MiB of 256"; }
[ "$(in_guest one "grep MemTotal /proc/meminfo" | awk '{ print $2 }')" -lt 140000 ] || fail "the balloon is not inflated"
ok boot

is "$(xl list -v one | awk 'END { print $7 }')" $uuid || fail "uuid"
is "$(xl domname "$(xl domid one)")" one || fail "domname"
xl list -l one | grep -q '"max_vcpus": 2' || fail "list -l"
xl rename one other && is "$(column other 1)" other || fail rename
xl rename other one || fail "rename back"
ok names

flags=$(in_guest one "grep -m1 flags /proc/cpuinfo" | tail -n 1)
echo " $flags " | grep -q ' sse2 ' || fail "no flags: $flags"
echo " $flags " | grep -q ' rdrand \| sse4_2 ' && fail "features that cpuid= took away: $flags"
ok cpuid

online() { xl vcpu-list one | grep -c ' [r-][b-]- '; }
is "$(online)" 1 || fail "vCPUs at start"
xl vcpu-set one 2 || fail "vcpu-set 2"
# There is no udev to bring up what appears.
wait_for 30 in_guest one "echo 1 >/sys/devices/system/cpu/cpu1/online" >/dev/null || fail "vCPU 1 comes up"
is "$(online)" 2 || { xl vcpu-list; fail "two vCPUs"; }
xl vcpu-set one 1 || fail "vcpu-set 1"
gone() { [ "$(online)" = 1 ]; }
wait_for 30 gone || { xl vcpu-list; fail "one vCPU"; }
is "$(in_guest one nproc | tail -n 1)" 1 || fail "the guest has one CPU"
ok "vcpu hotplug"

xl vcpu-pin one 0 1 || fail vcpu-pin
is "$(xl vcpu-list one | awk '$3 == 0 { print $4, $7 }')" "1 1" || { xl vcpu-list; fail "pinned"; }
xl vcpu-pin one all all || fail "vcpu-pin all"
ok "vcpu pin"

xl destroy one || fail destroy
