# What the scripts of "cargo xtask bench macro" share: a guest that can measure, too.
. /etc/testlib.sh

(cd / && echo usr/bin/probe | cpio -o -H newc >>/boot/guest.cpio 2>/dev/null)
say() { echo "BENCH $1 $(($3 - $2))"; }
# run WHAT NAME: a figure from the time that a command takes.
run() {
    name=$1
    shift
    begin=$(probe now)
    "$@" >/tmp/run.log 2>&1 || { cat /tmp/run.log; fail "$name"; }
    say "$name" "$begin" "$(probe now)"
}
# bench_guest NAME WORDS KEY=VALUE...: a guest that does what radon.bench= in WORDS says.
bench_guest() {
    bench_name=$1
    words=$2
    shift 2
    guest "$bench_name" "cmdline='console=hvc0 quiet radon.script=/etc/bench.sh $words'" "$@"
}
# figures NAME SECONDS: waits until a guest has measured, and passes its figures on.
figures() {
    guest_says "$1" "BENCH done" "$2" || { show_guest "$1"; fail "$1 measures"; }
    tr -d '\r' <"$(console_of "$1")" | grep "^BENCH" | grep -v " done "
}
