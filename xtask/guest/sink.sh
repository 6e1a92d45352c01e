#!/bin/sh
# Takes what comes over the network.
exec cat >/dev/null
