#!/usr/bin/env bash
# Backups side by side on one throwaway PostgreSQL: time, size, and memory of the largest process.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: scripts/bench-backup.sh [--messages N] [--program JARVISD]

Fills a throwaway PostgreSQL with N messages (1000000) of words from the documentation, then runs one after the other, and again in
the opposite order, all at a low priority: pg_dump | gzip, pg_dump -Fc, pg_dump | zstd -T0, and jarvisd backup create at the levels quick and restore.
Needs PostgreSQL, zstd and gzip, and root or the account that runs the server. Nothing is left behind.
TEXT
}
messages=1000000
program=target/release/jarvisd
while [ $# -gt 0 ]; do
    case "$1" in
    --messages) messages=$2; shift 2 ;;
    --program) program=$2; shift 2 ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
done
cd "$(dirname "$0")/.."
program=$(realpath "$program")

bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -n 1)
work=$(mktemp -d)
as=()
if [ "$(id -u)" = 0 ]; then
    as=(setpriv --reuid postgres --regid postgres --clear-groups)
    chown postgres "$work"
fi
stop() {
    "${as[@]}" "$bin/pg_ctl" -D "$work/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap stop EXIT
chmod 755 "$work"
port=$((20000 + RANDOM % 20000))
"${as[@]}" "$bin/initdb" -D "$work/data" -U jarvis -A trust -E UTF8 --locale=C.UTF-8 --no-sync >/dev/null
cat >>"$work/data/postgresql.conf" <<TEXT
listen_addresses = ''
port = $port
unix_socket_directories = '$work'
max_wal_size = '4GB'
TEXT
"${as[@]}" "$bin/pg_ctl" -D "$work/data" -l "$work/log" -w start >/dev/null
export PGHOST=$work PGPORT=$port PGUSER=jarvis PGDATABASE=jarvis PGOPTIONS="-c jarvis.role=forwarder"
createdb jarvis

mkdir -p "$work/home/etc/jarvis"
chmod 755 "$work/home"
cat >"$work/home/etc/jarvis/jarvis.toml" <<TEXT
[device]
id = "bench"
[store]
postgres_url = "postgres://jarvis@/jarvis?host=$work&port=$port"
TEXT
jarvisd() { "$program" --root "$work/home" "$@"; }
jarvisd user add anna >/dev/null
jarvisd ask --user anna "remember that this is a bench" >/dev/null
jarvisd queue drain >/dev/null

echo "filling with $messages messages …"
cat README.md docs/*.md docs/design/*.md | tr -cs '[:alpha:]' '\n' | tr '[:upper:]' '[:lower:]' >"$work/words"
awk -v n="$messages" -v OFS='\t' '
    { word[NR] = $0 }
    END {
        srand(7)
        for (i = 0; i < n; i++) {
            text = ""
            for (k = 3 + int(rand() * 20); k > 0; k--) text = text word[1 + int(rand() * NR)] " "
            print i, text
        }
    }' "$work/words" >"$work/texts"
psql -qX -v ON_ERROR_STOP=1 <<SQL
-- UUIDv7, as the devices make them.
CREATE FUNCTION pg_temp.id(n bigint) RETURNS uuid LANGUAGE sql VOLATILE AS \$\$
    SELECT (lpad(to_hex(1760000000000 + n * 1000), 12, '0') || '7' || substr(md5(random()::text), 1, 3) || '8'
        || substr(md5(random()::text), 1, 15))::uuid \$\$;
CREATE TEMP TABLE texts (n bigint, text text);
\\copy texts FROM '$work/texts'
INSERT INTO jarvis.conversations SELECT pg_temp.id(g), u.id, 'bench', NULL, 'Conversation ' || g, false, 51, now(), true, now(), true,
    0, 'boot', 'bench', nextval('jarvis.changes') FROM jarvis.users u, generate_series(0, $messages / 50) g;
INSERT INTO jarvis.messages SELECT pg_temp.id(t.n), c.id, c.owner, 1000 + t.n % 50, CASE t.n % 2 WHEN 0 THEN 'user' ELSE 'assistant' END,
    'say', t.text, '{"confidence": 0.93}', now() + t.n * interval '1 second', true, t.n * 1000000000, 'boot', 'bench', 'bench',
    nextval('jarvis.changes')
FROM texts t JOIN (SELECT id, owner, row_number() OVER (ORDER BY id) - 1 AS k FROM jarvis.conversations) c ON c.k = t.n / 50;
VACUUM ANALYZE;
SQL
rm "$work/texts"

# jarvisd lowers its own priority; on a machine that does other things as well the others must have the same.
low=(nice -n 10)
dump=("${low[@]}" pg_dump --schema=jarvis --enable-row-security)
# The largest resident size that any process of the command had, sampled, in MiB.
measure() {
    local name=$1 largest=0 size pid started ended
    shift
    rm -rf "$work/home/var/backups" "$work/out"
    sync
    started=$(date +%s%N)
    "$@" >/dev/null 2>"$work/errors" &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        for size in $(ps -o rss= --ppid "$pid" -p "$pid" 2>/dev/null); do
            [ "$size" -gt "$largest" ] && largest=$size
        done
        sleep 0.05
    done
    wait "$pid" || { cat "$work/errors" >&2; exit 1; }
    ended=$(date +%s%N)
    size=$(find "$work/out" "$work/home/var/backups" -type f -printf '%s\n' 2>/dev/null | awk '{ sum += $1 } END { print sum }' || true)
    printf '%-34s %8.1f s %9.1f MiB %7.0f MiB\n' "$name" "$(((ended - started) / 1000000))e-3" \
        "$(awk -v b="$size" 'BEGIN { print b / 1048576 }')" "$((largest / 1024))"
}
gzipped() { "${dump[@]}" | "${low[@]}" gzip >"$work/out"; }
custom() { "${dump[@]}" -Fc >"$work/out"; }
zstded() { "${dump[@]}" | "${low[@]}" zstd -q -T0 >"$work/out"; }
ours() { "$program" --root "$work/home" backup create --level "$1"; }
printf '%-34s %10s %13s %11s\n' "" time size memory
for round in 1 2; do
    runs=("gzipped" "custom" "zstded" "ours quick" "ours restore")
    [ $round = 2 ] && runs=("ours restore" "ours quick" "zstded" "custom" "gzipped")
    for run in "${runs[@]}"; do
        case "$run" in
        gzipped) measure "pg_dump | gzip" gzipped ;;
        custom) measure "pg_dump -Fc" custom ;;
        zstded) measure "pg_dump | zstd -T0" zstded ;;
        *) measure "jarvisd backup create, ${run#ours }" ours "${run#ours }" ;;
        esac
    done
done
