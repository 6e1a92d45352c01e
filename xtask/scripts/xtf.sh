# Runs each kernel in /xtf as a guest and prints what it says of itself; `cargo xtask xtf` reads the lines.
. /etc/testlib.sh

gone() { ! xl list "$guest_name" >/dev/null 2>&1; }
said() { grep -q "^Test result: " "$console"; }

for image in /xtf/????; do
    number=${image##*/}
    guest_name=xtf-$number
    console=$(console_of "$guest_name")
    {
        echo "type='pvh'"
        echo "memory=128"
        echo "kernel='$image'"
        echo "on_reboot='destroy'"
        echo "on_crash='destroy'"
        cat "$image.cfg"
    } >/tmp/xtf.cfg
    echo "XTF: begin $number"
    verdict=REFUSED
    if xl create -q /tmp/xtf.cfg; then
        verdict=CRASH
        if ! wait_for 60 gone; then
            verdict=HANG
            xl destroy "$guest_name"
        fi
        # What it printed last is in the ring until the console daemon has seen that it is gone.
        wait_for 2 said
        word=$(sed -n 's/^Test result: \([A-Z]*\).*/\1/p' "$console" | tail -n 1)
        verdict=${word:-$verdict}
        [ "$verdict" = SUCCESS ] || [ "$verdict" = SKIP ] || cat "$console"
    fi
    echo "XTF: end $number $verdict"
done
