# A guest's state goes to a file and comes back as a guest that goes on where it was.
. /etc/testlib.sh

guest sleeper "cmdline='console=hvc0 quiet radon.script=/etc/count.sh'"
xl create -q /tmp/sleeper.cfg || fail create
guest_says sleeper "count 3" 60 || { show_guest sleeper; fail boot; }
ok boot
xl save sleeper /tmp/image >/tmp/save.log 2>&1 || { cat /tmp/save.log; show_guest sleeper; fail save; }
xl list sleeper >/dev/null 2>&1 && fail "saved, but still there"
ok save
reached=$(sed -n 's/^count \([0-9]*\).*/\1/p' "$(console_of sleeper)" | tail -n 1)
xl restore /tmp/image >/tmp/restore.log 2>&1 || { cat /tmp/restore.log; fail restore; }
guest_says sleeper "count $((reached + 3))" 60 || { show_guest sleeper; fail "going on after $reached"; }
ok restore
xl destroy sleeper || fail destroy
