#!/usr/bin/env bash
# Stops the daemons that `up.sh STATE_DIR` started, by process id (munged stays: other services may use it).
state=${1:?usage: down.sh STATE_DIR}
for file in "$state"/slurmctld.pid "$state"/slurmd.*.pid; do
    [ -s "$file" ] || continue
    pid=$(cat "$file")
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -0 "$pid" 2>/dev/null && kill -9 "$pid"
done
exit 0
