#!/usr/bin/env bash
# Point-in-time recovery of a Postgres server with pgBackRest: sets it up, backs up, and restores beside what there is.
# Run it on the server. Re-runnable.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: scripts/pitr.sh COMMAND [OPTION...]      on the Postgres server, as root

  setup [--repo DIR] [--keep N]   writes the configuration of pgBackRest, has the server archive its log, makes the first backup;
                                  N full backups are kept (4)
  backup [full|diff|incr]         makes a backup (incr)
  check                           whether the log arrives in the archive, and what backups there are
  verify                          reads every file of the archive and compares it with its checksum; 65 if one is damaged
  restore --time TIME --to DIR    the server as it was then, into the new folder DIR: "2026-11-22 18:30:00+01"
  new-house [DATABASE]            tells the devices that this server was taken back, so that they send what it lacks (jarvis)

Connection: PGHOST and PGPORT as for psql; PGUSER_OS is the account of the server (postgres). PITR_CONFIG is the file of
pgBackRest (/etc/pgbackrest.conf), PITR_STANZA its name for this server (jarvis).
TEXT
}

account=${PGUSER_OS:-postgres}
role=${PGUSER:-$account}
config=${PITR_CONFIG:-/etc/pgbackrest.conf}
stanza=${PITR_STANZA:-jarvis}

fail() { printf 'pitr: %s\n' "$1" >&2; exit 1; }
note() { printf 'pitr: %s\n' "$1"; }

# In a folder that the account of the server may enter: that of whoever runs this is often closed to it.
as_server() {
    if [ "$(id -un)" = "$account" ]; then
        env --chdir=/ "$@"
    else
        setpriv --reuid "$account" --regid "$account" --init-groups env --chdir=/ HOME=/ "$@"
    fi
}
# Whether a file is as Debian's package has brought it.
of_the_package() { dpkg-query -W -f '${Conffiles}' pgbackrest 2>/dev/null | grep -q "$(md5sum <"$1" | cut -d' ' -f1)"; }
ask() { as_server psql -XAtq -d postgres -U "$role" -c "$1"; }
archiver() { as_server pgbackrest --config="$config" --stanza="$stanza" --log-level-console=warn --log-level-file=off "$@"; }

setup() {
    local repo=/var/lib/pgbackrest keep=4 data socket port other
    while [ $# -gt 0 ]; do
        case "$1" in
        --repo) repo=${2:?"--repo needs a folder"}; shift 2 ;;
        --keep) keep=${2:?"--keep needs a number"}; shift 2 ;;
        *) usage >&2; exit 2 ;;
        esac
    done
    case "$keep" in '' | *[!0-9]* | 0) fail "--keep needs a number from 1" ;; esac
    command -v pgbackrest >/dev/null || fail "pgbackrest is not installed: apt install pgbackrest"
    data=$(ask 'SHOW data_directory') || fail "the server cannot be asked: is it running, and are PGHOST and PGPORT right?"
    other=$(ask 'SHOW archive_command')
    case "$other" in
    '' | '(disabled)' | *"--stanza=$stanza "*) ;;
    *) fail "this server archives its log already ($other): take that back first, or leave it as it is" ;;
    esac
    port=$(ask 'SHOW port')
    socket=$(ask "SELECT trim(split_part(current_setting('unix_socket_directories'), ',', 1))")
    install -d -o "$account" -g "$account" -m 750 "$repo"
    if [ -s "$config" ] && ! grep -q "^# written by scripts/pitr.sh" "$config" && grep -q '^[^#]*=' "$config" &&
        ! of_the_package "$config"; then
        fail "$config has somebody else's settings: set PITR_CONFIG to another file"
    fi
    local written
    written=$(mktemp "$config.XXXXXX")
    cat >"$written" <<TEXT
# written by scripts/pitr.sh
[global]
repo1-path=$repo
repo1-retention-full=$keep
repo1-bundle=y
compress-type=zst
start-fast=y
# A full disk of the archive must not stop the database: log that is late by more than this is given up, and the next backup begins anew.
archive-push-queue-max=8GiB
[$stanza]
pg1-path=$data
pg1-port=$port
pg1-socket-path=$socket
pg1-user=$role
TEXT
    chown "$account": "$written"
    chmod 640 "$written"
    mv "$written" "$config"
    ask "ALTER SYSTEM SET archive_command = 'pgbackrest --config=$config --stanza=$stanza archive-push %p'" >/dev/null
    ask "ALTER SYSTEM SET archive_timeout = '5min'" >/dev/null
    ask "ALTER SYSTEM SET archive_mode = on" >/dev/null
    ask 'SELECT pg_reload_conf()' >/dev/null
    if [ "$(ask 'SHOW archive_mode')" != on ]; then
        note "restart the server now (systemctl restart postgresql), which its log archive needs, and run this again"
        exit 75
    fi
    archiver stanza-create
    archiver check
    archiver --type=full backup
    note "the log goes to $repo, and a first full backup is there; have 'scripts/pitr.sh backup full' run every week and"
    note "'scripts/pitr.sh backup' every day (cron of root), and copy $repo elsewhere"
}

verify() {
    local found
    found=$(archiver verify --output=text)
    # It ends with 0 whatever it finds.
    case "$found" in
    *"status: error"*)
        printf '%s\n' "$found"
        printf 'pitr: the archive is damaged: make a full backup now (scripts/pitr.sh backup full)\n' >&2
        exit 65
        ;;
    *) note "every file of the archive is what was written" ;;
    esac
}

backup() {
    case "${1:-incr}" in
    full | diff | incr) archiver "--type=${1:-incr}" backup ;;
    *) usage >&2; exit 2 ;;
    esac
}

restore() {
    local time='' to=''
    while [ $# -gt 0 ]; do
        case "$1" in
        --time) time=${2:?"--time needs a time"}; shift 2 ;;
        --to) to=${2:?"--to needs a folder"}; shift 2 ;;
        *) usage >&2; exit 2 ;;
        esac
    done
    if [ -z "$time" ] || [ -z "$to" ]; then usage >&2; exit 2; fi
    [ ! -e "$to" ] || fail "$to is there already: name a folder that does not exist yet"
    install -d -o "$account" -g "$account" -m 700 "$to"
    # The server that is found must not archive into the log of the one that it was taken from.
    archiver --pg1-path="$to" --type=time --target="$time" --target-action=promote --archive-mode=off restore ||
        { rmdir "$to" 2>/dev/null || true; fail "nothing was restored to $to; 'scripts/pitr.sh check' shows which times there are"; }
    note "$to holds the server as of $time: start it on another port, and look before it takes the place of the old one:"
    note "  pg_ctl -D $to -o '-p 5433 -k /tmp -c listen_addresses=' start"
    note "before the devices may connect to it: PGHOST=/tmp PGPORT=5433 scripts/pitr.sh new-house"
}

case "${1:-}" in
setup) shift; setup "$@" ;;
backup) shift; backup "$@" ;;
check) archiver check; archiver info ;;
verify) verify ;;
new-house) as_server psql -XAtq -d "${2:-jarvis}" -U "$role" -v ON_ERROR_STOP=1 -c 'UPDATE jarvis.house SET id = gen_random_uuid()' ;;
restore) shift; restore "$@" ;;
--help | -h) usage ;;
*) usage >&2; exit 2 ;;
esac
