# When user space began, in the machine's own time: dom0's, or that of a kernel without hypervisor.
set -- $(probe since-reset)
[ $# = 4 ] || { echo "RADON-TEST: FAILED: $*"; exit 1; }
echo "BENCH entry $1"
echo "BENCH later $2"
echo "BENCH seconds $3"
echo "BENCH minutes $4"
