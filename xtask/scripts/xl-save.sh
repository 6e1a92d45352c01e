# A guest's state goes to a file and comes back as a guest that goes on where it was.
. /etc/testlib.sh

said=$(console_of sleeper)
guest sleeper "vcpus=2" "maxmem=192" "cmdline='console=hvc0 quiet radon.script=/etc/load.sh radon.rest=200000'"
xl create -q /tmp/sleeper.cfg || fail create
guest_says sleeper "load 5" 60 || { show_guest sleeper; fail boot; }
ok boot
xl save sleeper /tmp/image >/tmp/save.log 2>&1 || { cat /tmp/save.log; show_guest sleeper; fail save; }
xl list sleeper >/dev/null 2>&1 && fail "saved, but still there"
ok save
reached=$(sed -n 's/^load \([0-9]*\).*/\1/p' "$said" | tail -n 1)
xl restore /tmp/image >/tmp/restore.log 2>&1 || { cat /tmp/restore.log; fail restore; }
guest_says sleeper "load $((reached + 4))" 60 || { show_guest sleeper; fail "going on after $reached"; }
# What it may use and had not used when it was saved is memory, too.
echo 24 >"$(xenstore-read "/local/domain/$(xl domid sleeper)/console/tty")"
guest_says sleeper "^filled 24" 60 || { show_guest sleeper; fail "filling memory"; }
if grep BAD "$said"; then fail damage; fi
ok restore
xl shutdown -w sleeper >/tmp/shutdown.log 2>&1 &
gone() { ! xl list sleeper >/dev/null 2>&1; }
wait_for 60 gone || { cat /tmp/shutdown.log; show_guest sleeper; fail shutdown; }
wait $! || { cat /tmp/shutdown.log; fail "shutdown -w"; }
ok shutdown
