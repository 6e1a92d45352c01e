# A guest that writes to its memory moves to the same host.
guest mover "vcpus=1" "cmdline='console=hvc0 quiet radon.script=/etc/load.sh radon.rest=200000'"
xl create -q /tmp/mover.cfg || fail create
guest_says mover "load 5" 120 || { show_guest mover; fail boot; }
done=0
for n in 1 2 3; do
    probe downtime 120 >/tmp/downtime &
    begin=$(probe now)
    if xl migrate -s '' mover 'xl migrate-receive' >/tmp/migrate.log 2>&1; then
        say migrate "$begin" "$(probe now)"
        wait $! || { cat /tmp/downtime; fail downtime; }
        read -r time domains </tmp/downtime
        echo "BENCH downtime $time"
        done=$((done + 1))
    else
        echo "the migration failed: $(tail -n 3 /tmp/migrate.log)"
        kill $! 2>/dev/null
    fi
    sleep 2
done
[ $done -ge 2 ] || fail migrate
