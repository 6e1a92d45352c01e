# Guests of extreme sizes, with a kernel that needs next to nothing.
. /etc/testlib.sh

# runs NAME VCPUS: the guest of /tmp/NAME.cfg comes up with so many vCPUs.
runs() {
    xl create -q "/tmp/$1.cfg" || fail "create $1"
    guest_says "$1" "tenant: $2 vCPUs run" 120 || { show_guest "$1"; fail "$1 runs"; }
}
# returns NAME: what it had is there again when it is destroyed. The first time does not count: dom0 gets tables for the
# foreign memory that the tools map, and keeps them.
returns() {
    xl destroy "$1" || fail "destroy $1"
    sleep 2
    note_memory
    rm -f "$(console_of "$1")"
    xl create -q "/tmp/$1.cfg" || fail "create $1 again"
    xl destroy "$1" || fail "destroy $1 again"
    memory_back "after $1"
}

tenant small
runs small 1
is "$(column small 3)" 32 || fail "32 MiB"
returns small
ok small

tenant wide "vcpus=128" "memory=64"
runs wide 128
is "$(xl vcpu-list wide | grep -c '^wide .* [r-][b-]- ')" 128 || { xl vcpu-list wide; fail "128 vCPUs are listed"; }
returns wide
ok wide

# All but what the tools set aside for the guest's tables, 8 KiB for each MiB, and a little.
most=$(($(xl info free_memory) * 127 / 128 - 16))
tenant large "memory=$most"
runs large 1
is "$(column large 3)" "$most" || fail "$most MiB"
returns large
tenant large "memory=$((most + 512))"
xl create -q /tmp/large.cfg 2>/dev/null && fail "more than there is"
memory_back "after the guest that was too large"
ok large
