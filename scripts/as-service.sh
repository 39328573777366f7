#!/bin/sh
# Runs a command of jarvisd as the user of the service, and writes its end to the journal: journalctl -t jarvis-backup
#
#   scripts/as-service.sh backup create [OPTION...]
set -eu
[ $# -ge 2 ] || { sed -n '2,4p' "$0" | cut -c3-; exit 2; }
user=${JARVIS_USER:-jarvis}
what="$1 $2"
case " $* " in *" --help "* | *" -h "*) exec jarvisd "$1" "$2" --help ;; esac
if [ "$(id -un)" = "$user" ]; then
    set -- jarvisd "$@"
elif [ "$(id -u)" -eq 0 ]; then
    set -- setpriv --reuid "$user" --regid "$user" --init-groups jarvisd "$@"
else
    set -- sudo -u "$user" jarvisd "$@"
fi
status=0
"$@" || status=$?
if command -v logger >/dev/null; then
    logger -t jarvis-backup "$what by $(id -un) ended with exit code $status"
fi
exit "$status"
