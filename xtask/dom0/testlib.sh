# Functions for test scripts; each script starts with ". /etc/testlib.sh".

# A result that a scenario expects.
ok() { echo "RADON-TEST: $1 ok"; }

# Ends the script; the scenario fails at this line.
fail() {
    echo "RADON-TEST: FAILED: $1"
    exit 1
}

# check NAME COMMAND...: a result from a command's success.
check() {
    name=$1
    shift
    "$@" || fail "$name"
    ok "$name"
}

# is FOUND EXPECTED
is() { [ "$1" = "$2" ] || { echo "found '$1', expected '$2'"; false; }; }

uptime_seconds() { cut -d. -f1 /proc/uptime; }

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
    deadline=$(($(uptime_seconds) + $1))
    shift
    until "$@"; do
        [ "$(uptime_seconds)" -lt "$deadline" ] || return 1
        usleep 200000
    done
}

# argument NAME DEFAULT: the value of radon.NAME= on dom0's command line.
argument() {
    value=$2
    for word in $(cat /proc/cmdline); do
        case $word in radon.$1=*) value=${word#*=} ;; esac
    done
    echo "$value"
}

# note_memory: how many pages are free, with dom0's own. memory_back WHEN: all these are free again soon, or the test fails.
note_memory() { free_before=$(probe free-pages); }
memory_is_back() { [ "$(probe free-pages)" = "$free_before" ]; }
memory_back() { wait_for 60 memory_is_back || { probe free-pages; fail "$free_before free pages $1"; }; }

# guest NAME KEY=VALUE...: writes /tmp/NAME.cfg for a small PVH guest that boots what dom0 boots. Its console goes to
# console_of NAME; what it does is decided by its own radon.script=, or by nothing.
guest() {
    guest_name=$1
    shift
    {
        echo "name='$guest_name'"
        echo "type='pvh'"
        echo "memory=128"
        echo "vcpus=1"
        echo "kernel='/boot/vmlinuz'"
        echo "ramdisk='/boot/guest.cpio'"
        echo "cmdline='console=hvc0 quiet'"
        for line in "$@"; do echo "$line"; done
    } >"/tmp/$guest_name.cfg"
}

# tenant NAME KEY=VALUE...: writes /tmp/NAME.cfg for a guest with the kernel of a few kilobytes; cmdline= says what it does
# (see guests/tenant). A later value of a key counts.
tenant() {
    tenant_name=$1
    shift
    guest "$tenant_name" "kernel='/boot/tenant'" "memory=32" "cmdline='beat'" "$@"
    sed -i /^ramdisk/d "/tmp/$tenant_name.cfg"
}

console_of() { echo "/var/log/xen/console/guest-$1.log"; }

# guest_says NAME TEXT SECONDS: waits for a line on the guest's console.
guest_says() { wait_for "$3" grep -q "$2" "$(console_of "$1")" 2>/dev/null; }

# Shows what is known about a guest that did not do what was expected.
show_guest() {
    xl list
    cat "$(console_of "$1")"
    tail -n 20 "/var/log/xen/xl-$1.log" /var/log/xen/xen-hotplug.log 2>/dev/null
}

# starts NAME: creates the guest of /tmp/NAME.cfg, which runs no script, and waits for its shell.
starts() {
    xl create -q "/tmp/$1.cfg" || fail "create $1"
    guest_says "$1" "BusyBox shell" 300 || { show_guest "$1"; fail "$1 boots"; }
}

# in_guest NAME COMMAND: types a command into the shell of a guest, prints what it says and returns its status. What the
# shell cannot take yet waits in the console's ring.
in_guest() {
    # Marks the answer; no two are asked at the same hundredth of a second.
    asked=$(cut -d' ' -f1 /proc/uptime | tr -d .)
    wait_for 60 sh -c "xenstore-read /local/domain/\$(xl domid $1)/console/tty >/dev/null 2>&1" || return 99
    console=$(console_of "$1")
    printf 'echo be""gun %s; %s; echo answ""ered %s $?\n' $asked "$2" $asked \
        >"$(xenstore-read "/local/domain/$(xl domid "$1")/console/tty")"
    if ! wait_for 120 grep -q "^answered $asked " "$console"; then
        echo "no answer to: $2" >&2
        return 98
    fi
    # The shell shows what is typed, too, in lines of its own.
    tr -d '\r' <"$console" | sed -n "/^begun $asked\$/,/^answered $asked /p" | sed '1d;$d'
    return "$(sed -n "s/^answered $asked \([0-9]*\).*/\1/p" "$console")"
}

# column NAME N: a column of a guest's line in "xl list".
column() { xl list "$1" | awk -v n="$2" 'END { print $n }'; }
