#!/bin/sh
# Makes a backup of the memory and proves it, as the user of the service: `jarvisd backup create` with whatever is given here.
#
#   scripts/backup-db.sh [OPTION...]     --help tells which there are
exec "$(dirname "$0")/as-service.sh" backup create "$@"
