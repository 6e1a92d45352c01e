# Work that makes dom0 fork, page, switch and calculate on all its CPUs.
ok() { echo "RADON-TEST: $1 ok"; }
fail() { echo "RADON-TEST: FAILED: $1"; exit 1; }

count=0
for n in $(seq 60); do
    sh -c "exit $n" && fail "process $n"
    [ $? = "$n" ] || fail "exit status of process $n"
    count=$((count + 1))
done
[ $count = 60 ] || fail "$count processes"
ok processes

sum=$(seq 20000 | cat | cat | cat | md5sum)
[ "$sum" = "$(seq 20000 | md5sum)" ] || fail pipes
ok pipes

dd if=/dev/urandom of=/tmp/a bs=1M count=32 2>/dev/null
cp /tmp/a /tmp/b & cp /tmp/a /tmp/c & wait
cmp /tmp/a /tmp/b && cmp /tmp/a /tmp/c || fail memory
rm /tmp/a /tmp/b /tmp/c
ok memory

# Floating point on several processes at once: each must get the same.
one() { awk 'BEGIN { for (i = 1; i < 60000; i++) s += sin(i) / i; printf "%.15f\n", s }'; }
for n in 1 2 3 4; do one >/tmp/f$n & done
wait
[ "$(cat /tmp/f1 /tmp/f2 /tmp/f3 /tmp/f4 | sort -u | wc -l)" = 1 ] || fail "arithmetic: $(cat /tmp/f*)"
ok arithmetic
