# A core of a running guest: its head, and the pages that it fills with a text. The tools then go through all the guest
# frames up to 4 GiB for more, which takes minutes in an emulated machine: `cargo xtask soak coredump` waits for that.
. /etc/testlib.sh
mount -t tmpfs -o size=300m tmpfs /mnt

guest one
starts one
in_guest one 'yes found in a page | head -c 1048576 >/tmp/text' >/dev/null || fail "text in memory"
xl pause one || fail pause
xl dump-core one /mnt/core &
pages() { [ "$(stat -c %s /mnt/core 2>/dev/null || echo 0)" -gt 125000000 ]; }
wait_for 400 pages || { ls -l /mnt; fail "the pages are written"; }
kill $!
# An ELF core of the x86-64 kind, with notes of Xen's.
is "$(hexdump -v -n 20 -e '20/1 "%02x"' /mnt/core)" 7f454c4602010100010000000000000004003e00 || fail "ELF header"
head -c 4096 /mnt/core | grep -q Xen || fail "notes"
ok header
lines=$(grep -c '^found in a page$' /mnt/core)
# 16 bytes each; those across two pages may be apart.
[ "$lines" -ge 60000 ] || fail "$lines lines of the text"
ok pages
xl destroy one || fail destroy
ok destroy
