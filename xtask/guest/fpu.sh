# Floating point in a guest.
probe fpu 25 3
