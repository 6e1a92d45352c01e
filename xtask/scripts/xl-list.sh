# Debian's tools talk to the hypervisor.
. /etc/testlib.sh

xl info || fail "xl info"
check "xl info" is "$(xl info | sed -n 's/^xen_version *: \(4\.17\).*/\1/p')" 4.17
xl list || fail "xl list"
xl list | grep -q '^Domain-0 .*r-----' || fail "xl list has no running Domain-0"
ok "xl list"
xenstore-write /tool/radon-test some-value || fail xenstore
check xenstore is "$(xenstore-read /tool/radon-test)" some-value
xl dmesg | grep -qi command || fail "xl dmesg"
ok "xl dmesg"
