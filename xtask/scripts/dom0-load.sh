# Work that makes dom0 fork, page, switch and calculate on all its CPUs.
. /etc/testlib.sh

for n in $(seq 60); do
    sh -c "exit $n" && fail "process $n"
    [ $? = "$n" ] || fail "exit status of process $n"
done
ok processes

sum=$(seq 20000 | cat | cat | cat | md5sum)
check pipes is "$sum" "$(seq 20000 | md5sum)"

dd if=/dev/urandom of=/tmp/a bs=1M count=32 2>/dev/null
cp /tmp/a /tmp/b & cp /tmp/a /tmp/c & wait
cmp /tmp/a /tmp/b && cmp /tmp/a /tmp/c || fail memory
rm /tmp/a /tmp/b /tmp/c
ok memory

# A chaotic sequence in floating point: one wrong bit anywhere changes the end. Several at once must get what one gets.
chaos() { awk 'BEGIN { x = 0.3; for (i = 1; i < 60000; i++) x = 3.9 * x * (1 - x); printf "%.15f\n", x }'; }
alone=$(chaos)
for n in 1 2 3 4; do chaos >"/tmp/f$n" & done
wait
[ -n "$alone" ] || fail "arithmetic: awk says nothing"
for n in 1 2 3 4; do
    is "$(cat "/tmp/f$n")" "$alone" || fail "arithmetic of process $n"
done
ok arithmetic
