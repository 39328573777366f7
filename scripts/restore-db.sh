#!/bin/sh
# Puts a backup back, as the user of the service: `jarvisd backup restore` with whatever is given here.
#
#   scripts/restore-db.sh [OPTION...]     --help tells which there are
#
# It writes to the journal what the timer's run writes: journalctl -t jarvis-backup
set -eu
user=${JARVIS_USER:-jarvis}
case " $* " in *" --help "* | *" -h "*) exec jarvisd backup restore --help ;; esac
if [ "$(id -un)" = "$user" ]; then
    set -- jarvisd backup restore "$@"
elif [ "$(id -u)" -eq 0 ]; then
    set -- setpriv --reuid "$user" --regid "$user" --init-groups jarvisd backup restore "$@"
else
    set -- sudo -u "$user" jarvisd backup restore "$@"
fi
status=0
"$@" || status=$?
if command -v logger >/dev/null; then
    logger -t jarvis-backup "backup restore by $(id -un) ended with exit code $status"
fi
exit "$status"
