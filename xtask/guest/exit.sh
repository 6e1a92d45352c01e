# A guest whose script is over at once.
true
