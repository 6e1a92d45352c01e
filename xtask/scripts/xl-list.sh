# Debian's tools talk to the hypervisor.
ok() { echo "RADON-TEST: $1 ok"; }
fail() { echo "RADON-TEST: FAILED: $1"; exit 1; }

xl info || fail "xl info"
xl info xen_version | grep -q '^4\.17' || fail "xl info xen_version"
ok "xl info"
xl list || fail "xl list"
xl list | grep -q '^Domain-0 .*r-----' || fail "xl list has no running Domain-0"
ok "xl list"
xenstore-write /tool/radon-test some-value && [ "$(xenstore-read /tool/radon-test)" = some-value ] || fail xenstore
ok xenstore
xl dmesg | grep -qi command || fail "xl dmesg"
ok "xl dmesg"
