# A guest attacks the hypervisor, again and again, each time with another seed: nobody else is harmed, and all memory is
# there when it is gone. radon.seconds= says for how long, radon.seed= with which seed the first begins.
. /etc/testlib.sh

seconds=$(argument seconds 20)
seed=$(argument seed 1)
tenant bystander "cmdline='beat'"
xl create -q /tmp/bystander.cfg || fail "create the bystander"
beats() { grep -c "tenant: beat" "$(console_of bystander)"; }
beats_on() {
    before=$(beats)
    more() { [ "$(beats)" -gt "$before" ]; }
    wait_for 30 more
}
beats_on || { show_guest bystander; fail "the bystander runs"; }
# What dom0's kernel takes once for foreign memory, it keeps.
tenant hostile "cmdline='beat'"
xl create -q /tmp/hostile.cfg && xl destroy hostile || fail "create and destroy"
note_memory

until=$(($(uptime_seconds) + seconds))
round=0
while :; do
    round=$((round + 1))
    tenant hostile "cmdline='attack $seed'" "vcpus=3" "on_crash='preserve'" "on_poweroff='preserve'" "on_reboot='preserve'"
    rm -f "$(console_of hostile)"
    xl create -q /tmp/hostile.cfg || fail "create the attacker with seed $seed"
    # It does not matter whether the attack ends itself.
    last=$(($(uptime_seconds) + 15))
    while [ "$(uptime_seconds)" -lt $last ] && ! xl list hostile | grep -q -e '---s' -e '---c' -e 'sc-'; do
        sleep 1
    done
    xl list hostile | tail -n 1
    echo "SOAK round $round seed $seed: $(tail -n 1 "$(console_of hostile)")"
    grep -q "tenant: attack with seed $seed" "$(console_of hostile)" || { show_guest hostile; fail "seed $seed attacks"; }
    # xl's daemon may be about to destroy it, too.
    xl destroy hostile 2>/dev/null || ! xl list hostile 2>/dev/null || fail "destroy the attacker with seed $seed"
    memory_back "after seed $seed"
    beats_on || { show_guest bystander; fail "the bystander goes on after seed $seed"; }
    [ "$(uptime_seconds)" -lt $until ] || break
    seed=$((seed + 1))
done
ok attacked
is "$(xl list | wc -l)" 3 || { xl list; fail "only the bystander is there"; }
xl destroy bystander || fail "destroy the bystander"
ok "nobody is harmed"
