# Counts seconds on the console.
n=0
while true; do
    n=$((n + 1))
    echo "count $n"
    sleep 1
done
