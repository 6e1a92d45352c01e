# What dom0's kernel warns of, beside what it warns of on Debian's Xen in the same machine.
. /etc/testlib.sh

# Each of these comes on Debian's Xen as well. The first two are the CPU model's, the next two are no complaints, the
# fifth is about a CPU that only the machine's own tables name, the last about machine checks.
known='Speculative Return Stack Overflow
Spectre\|RETBleed\|Retbleed\|MDS\|TAA\|MMIO Stale
spinlock event irq
Grant table initialized
possible_cpus limit of [0-9]* reached
xen_mcelog: Failed to get CPU numbers'
dmesg -r | grep '^<[0-4]>' >/tmp/warnings
sed 's/^/kernel: /' /tmp/warnings
grep -v "$known" /tmp/warnings && fail "a warning that Debian's Xen does not cause"
ok "no other warnings"
