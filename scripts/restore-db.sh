#!/bin/sh
# Puts a backup back, as the user of the service: `jarvisd backup restore` with whatever is given here.
#
#   scripts/restore-db.sh [OPTION...]     --help tells which there are
exec "$(dirname "$0")/as-service.sh" backup restore "$@"
