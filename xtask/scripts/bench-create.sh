# A guest is created, boots, is destroyed, saved and restored.
bench_guest one radon.bench=idle
for n in 1 2 3; do
    rm -f "$(console_of one)"
    begin=$(probe now)
    xl create -q /tmp/one.cfg || fail create
    created=$(probe now)
    up=$(probe when "$(console_of one)" "guest userspace up" 60) || { show_guest one; fail "boot: $up"; }
    # The first time files are read and caches filled that later ones find full.
    if [ $n -gt 1 ]; then
        say create "$begin" "$created"
        say create_to_userspace "$begin" "$up"
    fi
    sleep 2
    [ $n = 3 ] || run destroy xl destroy one
done
for n in 1 2; do
    run save xl save one /tmp/image
    run restore xl restore /tmp/image
    sleep 2
done
xl destroy one
sleep 1
# Microseconds, and pages of the hypervisor's.
cost=$(probe guest-cost 128 3) || fail "cost: $cost"
echo "BENCH hypervisor_creates $((${cost% *} * 1000))"
cost=$(probe guest-cost 64 3) || fail "cost: $cost"
echo "BENCH pages_of_guest ${cost#* }"
