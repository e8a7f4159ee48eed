#!/bin/sh
# Runs Squid in the foreground, and has it read the list of hosts again when that has changed.
#
# LIST is a mounted ConfigMap's file; a copy at ALLOWED is what Squid reads, so that it never sees a half, and has a file
# while there is no list: then nothing is allowed. Squid writes its access log to the pipe LOG: it opens what it logs to by
# name, which /dev/stdout does not always let it.
set -eu
LIST=${LIST:-/etc/egress-pool/allow}
ALLOWED=${ALLOWED:-/tmp/allow}
CONFIG=${CONFIG:-/etc/egress/squid.conf}
LOG=${LOG:-/tmp/log}

take() {
    { cat "$LIST" 2>/dev/null || :; } >"$ALLOWED.new"
    if cmp -s "$ALLOWED.new" "$ALLOWED"; then return 1; fi
    mv "$ALLOWED.new" "$ALLOWED"
}

take || :
rm -f "$LOG"
mkfifo "$LOG"
# Open both ways: it must not end when Squid opens its log anew.
cat <>"$LOG" &
squid -N -d 1 -f "$CONFIG" &
squid=$!
trap 'kill -TERM "$squid"' TERM INT
while kill -0 "$squid" 2>/dev/null; do
    sleep 2 &
    wait $! || :
    if take; then kill -HUP "$squid"; fi
done
wait "$squid"
