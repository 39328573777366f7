#!/bin/sh
# Makes a backup of the memory and proves it, as the user of the service: `jarvisd backup create` with whatever is given here.
#
#   scripts/backup-db.sh [OPTION...]     --help tells which there are
#
# It writes to the journal what the timer's run writes: journalctl -t jarvis-backup
set -eu
user=${JARVIS_USER:-jarvis}
case " $* " in *" --help "* | *" -h "*) exec jarvisd backup create --help ;; esac
if [ "$(id -un)" = "$user" ]; then
    set -- jarvisd backup create "$@"
elif [ "$(id -u)" -eq 0 ]; then
    set -- setpriv --reuid "$user" --regid "$user" --init-groups jarvisd backup create "$@"
else
    set -- sudo -u "$user" jarvisd backup create "$@"
fi
status=0
"$@" || status=$?
if command -v logger >/dev/null; then
    logger -t jarvis-backup "backup create by $(id -un) ended with exit code $status"
fi
exit "$status"
