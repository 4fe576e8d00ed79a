#!/bin/sh
# Runs a script in psql, and takes out of what it prints the process of a notification.
"$1/psql" -X -a -f "$2" 2>&1 | sed -E 's/(server process with PID) [0-9]+/\1/'
