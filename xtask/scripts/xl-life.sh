# What a user does to a running guest, and what the guest does then.
. /etc/testlib.sh

free_before=$(xl info free_memory)
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
# It moves when it runs next.
pinned() { [ "$(xl vcpu-list one | awk '$3 == 0 { print $4, $7 }')" = "1 1" ]; }
wait_for 30 pinned || { xl vcpu-list; fail "pinned"; }
xl vcpu-pin one all all || fail "vcpu-pin all"
ok "vcpu pin"

xl mem-set one 100m || fail "mem-set 100m"
wait_for 30 memory_is 100 || { xl list; fail "balloon up"; }
xl mem-set one 200m || fail "mem-set 200m"
wait_for 30 memory_is 200 || { xl list; fail "balloon down"; }
[ "$(in_guest one "grep MemTotal /proc/meminfo" | awk '{ print $2 }')" -gt 150000 ] || fail "the guest has it"
xl mem-max one 220m || fail mem-max
xl mem-set one 240m 2>/dev/null && fail "more than mem-max"
xl mem-set one 128m || fail "mem-set 128m"
wait_for 30 memory_is 128 || { xl list; fail "balloon up again"; }
ok balloon

xl sched-credit2 -d one -w 512 -c 50 || fail "sched-credit2 sets"
is "$(xl sched-credit2 -d one | awk 'END { print $3, $4 }')" "512 50" || fail "sched-credit2 shows"
xl sched-credit2 -d one -c 0 || fail "sched-credit2 uncaps"
ok parameters

xl sysrq one h || fail sysrq
guest_says one "sysrq: HELP" 30 || { show_guest one; fail "sysrq arrives"; }
xl trigger one nmi 0 || fail "trigger nmi"
nmis() { [ "$(in_guest one "grep NMI: /proc/interrupts" | awk '/NMI:/ { n = $2 } END { print n + 0 }')" -ge 1 ]; }
wait_for 30 nmis || fail "the NMI arrives"
ok signals

xl cpupool-cpu-remove Pool-0 1 || fail "cpupool-cpu-remove"
xl cpupool-create 'name="two"' 'cpus=["1"]' >/dev/null || fail "cpupool-create"
xl cpupool-migrate one two || fail "cpupool-migrate"
is "$(xl cpupool-list two | awk 'END { print $2, $5 }')" "1 1" || { xl cpupool-list; fail "cpupool-list"; }
is "$(in_guest one "echo in pool" | grep -c '^in pool')" 1 || fail "runs in its pool"
is "$(xl vcpu-list one | awk '$3 == 0 { print $4 }')" 1 || { xl vcpu-list; fail "runs on the pool's CPU"; }
xl cpupool-destroy two 2>/dev/null && fail "a pool in use was destroyed"
xl cpupool-migrate one Pool-0 || fail "cpupool-migrate back"
xl cpupool-destroy two || fail "cpupool-destroy"
xl cpupool-cpu-add Pool-0 1 || fail "cpupool-cpu-add"
xl cpupool-numa-split || fail "cpupool-numa-split"
is "$(xl cpupool-list -c | awk 'END { print $2 }')" 0,1 || { xl cpupool-list -c; fail "all CPUs are back"; }
ok cpupools

before=$(xl domid one)
xl reboot -w one >/dev/null || fail reboot
is "$(in_guest one "echo again here" | grep -c '^again here')" 1 || { show_guest one; fail "comes back"; }
[ "$(xl domid one)" -gt "$before" ] || fail "the same domain"
ok reboot

in_guest one "echo 1 >/proc/sys/kernel/sysrq" >/dev/null || fail "allow sysrq"
xl sysrq one c || fail "sysrq c"
crashed() { xl list one | grep -q 'sc-'; }
wait_for 30 crashed || { xl list; show_guest one; fail "crash shows"; }
sleep 2
crashed || fail "it is not preserved"
xl destroy one || fail destroy
ok crash

memory_is_back() { [ "$(xl info free_memory)" = "$free_before" ]; }
wait_for 20 memory_is_back || { xl info free_memory; fail "memory of $free_before MiB returned"; }
ok "memory returned"
