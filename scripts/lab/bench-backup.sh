#!/usr/bin/env bash
# Backups side by side on one throwaway PostgreSQL: time, size, and memory of the largest process.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: scripts/lab/bench-backup.sh [--messages N] [--texts words|household] [--program JARVISD] [--what PART,PART…]

Fills a throwaway PostgreSQL with N messages (1000000), then measures the PARTs (all of them):

  backups   time, size and memory of pg_dump | gzip, pg_dump -Fc, pg_dump | zstd -T0, pg_dump | restic backup --stdin, and jarvisd backup create
            at the levels quick and restore, one after the other and again in the opposite order
  turns     how long a turn takes to be stored meanwhile (needs the example turn_latency beside the program)
  levels    pg_dump | zstd at several levels
  columns   what each column of the messages takes when it is compressed by itself

All at the same low priority; ratios are to pg_dump | gzip of the same run. --texts words (the default): words of the documentation drawn one by
one. --texts household: made-up talk with an assistant, from scripts/lab/household-texts.py.
Needs PostgreSQL, zstd, gzip, python3, restic for its line, and root or the account that runs the server. Nothing is left behind.
TEXT
}
messages=1000000
texts=words
program=target/release/jarvisd
what=backups,turns,levels,columns
while [ $# -gt 0 ]; do
    case "$1" in
    --messages) messages=$2; shift 2 ;;
    --texts) texts=$2; shift 2 ;;
    --program) program=$2; shift 2 ;;
    --what) what=$2; shift 2 ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
done
case "$texts" in words | household) ;; *) usage >&2; exit 2 ;; esac
cd "$(dirname "$0")/../.."
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

echo "filling with $messages messages ($texts) …"
# Columns: number, kind, text, meta, milliseconds since the first message.
if [ "$texts" = household ]; then
    scripts/lab/household-texts.py --messages "$messages" >"$work/texts"
else
    cat README.md docs/*.md docs/design/*.md | tr -cs '[:alpha:]' '\n' | tr '[:upper:]' '[:lower:]' >"$work/words"
    awk -v n="$messages" -v OFS='\t' '
        { word[NR] = $0 }
        END {
            srand(7)
            for (i = 0; i < n; i++) {
                text = ""
                for (k = 3 + int(rand() * 20); k > 0; k--) text = text word[1 + int(rand() * NR)] " "
                print i, "say", text, "{\"confidence\": 0.93}", i * 1000
            }
        }' "$work/words" >"$work/texts"
fi
psql -qX -v ON_ERROR_STOP=1 <<SQL
-- UUIDv7, as the devices make them.
CREATE FUNCTION pg_temp.id(ms bigint) RETURNS uuid LANGUAGE sql VOLATILE AS \$\$
    SELECT (lpad(to_hex(1400000000000 + ms), 12, '0') || '7' || substr(md5(random()::text), 1, 3) || '8'
        || substr(md5(random()::text), 1, 15))::uuid \$\$;
CREATE TEMP TABLE texts (n bigint, kind text, text text, meta jsonb, ms bigint);
\\copy texts FROM '$work/texts'
INSERT INTO jarvis.conversations SELECT pg_temp.id(g * 50000), u.id, 'bench', NULL, 'Conversation ' || g, false, 51, now(), true, now(),
    true, 0, 'boot', 'bench', nextval('jarvis.changes') FROM jarvis.users u, generate_series(0, $messages / 50) g;
INSERT INTO jarvis.messages SELECT pg_temp.id(t.ms), c.id, c.owner, 1000 + t.n % 50, CASE t.n % 2 WHEN 0 THEN 'user' ELSE 'assistant' END,
    t.kind, t.text, t.meta, to_timestamp(1400000000 + t.ms / 1000.0), true, t.ms * 1000000 + (random() * 1000000)::bigint,
    '5d5c2b2e-9df1-4a55-a1a3-1f6f2f6d8c11', 'bench', 'bench', nextval('jarvis.changes')
FROM texts t JOIN (SELECT id, owner, row_number() OVER (ORDER BY id) - 1 AS k FROM jarvis.conversations) c ON c.k = t.n / 50
ORDER BY t.n;
VACUUM ANALYZE;
SQL
rm "$work/texts"

# jarvisd lowers its own priority; on a machine that does other things as well the others must have the same.
low=(nice -n 10)
dump=("${low[@]}" pg_dump --schema=jarvis --enable-row-security)
: >"$work/measured"
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
    printf '%s\t%s\t%s\t%s\n' "$name" "$(((ended - started) / 1000000))" "$size" "$largest" >>"$work/measured"
}
# What was measured so far, and begins anew: means, and ratios to the line that has "| gzip".
table() {
    printf '\n%-40s %9s %8s %10s %8s %9s\n' "$1" "time s" "of gzip" "size MiB" "of gzip" "most MiB"
    awk -F '\t' '
        !($1 in runs) { order[++n] = $1 }
        { runs[$1]++; ms[$1] += $2; bytes[$1] += $3; if ($4 > kib[$1]) kib[$1] = $4; each[$1] = each[$1] sprintf(" %.1f", $2 / 1000) }
        $1 ~ /\| gzip/ { peer = $1 }
        END {
            for (i = 1; i <= n; i++) {
                r = order[i]; p = peer
                printf "%-40s %9.1f %8.2f %10.1f %8.2f %9.0f  (%s )\n", r, ms[r] / runs[r] / 1000, ms[r] / runs[r] / (ms[p] / runs[p]),
                    bytes[r] / runs[r] / 1048576, bytes[r] / runs[r] / (bytes[p] / runs[p]), kib[r] / 1024, each[r]
            }
        }' "$work/measured"
    : >"$work/measured"
}
gzipped() { "${dump[@]}" | "${low[@]}" gzip >"$work/out"; }
custom() { "${dump[@]}" -Fc >"$work/out"; }
zstded() { "${dump[@]}" | "${low[@]}" zstd -q -T0 >"$work/out"; }
# $1: format, $2…: arguments of zstd.
leveled() { "${dump[@]}" --format="$1" --compress=0 | "${low[@]}" zstd -q -T2 "${@:2}" >"$work/out"; }
columned() { "${dump[@]}" --format=custom --compress=0 | scripts/dump-columns.py | "${low[@]}" zstd -q -T2 "$@" >"$work/out"; }
restic_() {
    cp -r "$work/repository" "$work/out"
    "${dump[@]}" | "${low[@]}" restic --quiet --no-cache --repo "$work/out" --password-file "$work/secret" backup --stdin --stdin-filename dump
}
ours() { "$program" --root "$work/home" backup create --level "$1"; }

backups() {
    local round run
    local runs=("gzipped" "custom" "zstded" "ours quick" "ours restore")
    if command -v restic >/dev/null; then
        od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$work/secret"
        restic --quiet --no-cache --repo "$work/repository" --password-file "$work/secret" init
        runs+=("restic_")
    else
        echo "restic is not installed, so it is left out."
    fi
    for round in 1 2; do
        [ $round = 2 ] && mapfile -t runs < <(printf '%s\n' "${runs[@]}" | tac)
        for run in "${runs[@]}"; do
            case "$run" in
            gzipped) measure "pg_dump | gzip" gzipped ;;
            custom) measure "pg_dump -Fc" custom ;;
            zstded) measure "pg_dump | zstd -T0" zstded ;;
            restic_) measure "pg_dump | restic backup --stdin" restic_ ;;
            *) measure "jarvisd backup create, ${run#ours }" ours "${run#ours }" ;;
            esac
        done
    done
    table "$messages messages, $texts"
}

levels() {
    local level
    measure "pg_dump | gzip" gzipped
    for level in 3 9; do
        measure "custom | zstd -T2 -$level" leveled custom "-$level"
    done
    for level in 1 2 3 6; do
        measure "custom, by columns | zstd -T2 -$level" columned "-$level"
        measure "custom, by columns | zstd -T2 -$level --long=24" columned "-$level" --long=24
    done
    table "levels, $texts (the times by columns are those of a script in Python)"
}

# Turns are stored while "$2…" is run again and again, for at least fifteen seconds.
turns_during() {
    local name=$1 pid until=$((SECONDS + 15))
    shift
    "$(dirname "$program")/examples/turn_latency" "$work/home/var/lib/jarvis/jarvis.db" anna >"$work/latency" &
    pid=$!
    while [ $SECONDS -lt $until ]; do
        rm -rf "$work/home/var/backups" "$work/out"
        "$@" >/dev/null 2>"$work/errors" || { cat "$work/errors" >&2; exit 1; }
    done
    kill "$pid"
    wait "$pid" || true
    read -r median high longest n <"$work/latency"
    printf '%-40s %9s %9s %9s %7s\n' "$name" "$median" "$high" "$longest" "$n"
}
turns() {
    if [ ! -x "$(dirname "$program")/examples/turn_latency" ]; then
        echo "The example turn_latency was not built beside $program, so turns are left out."
        return
    fi
    printf '\n%-40s %9s %9s %9s %7s\n' "a turn, ms" median p99 longest turns
    turns_during "alone" sleep 5
    turns_during "during pg_dump | gzip" gzipped
    turns_during "during jarvisd backup create, quick" ours quick
    turns_during "during jarvisd backup create, restore" ours restore
    turns_during "alone again" sleep 5
}

columns() {
    local column of level
    printf '\n%-40s %9s %9s %9s\n' "messages, MiB" plain "zstd -3" "zstd -19"
    for column in id conversation owner seq role kind text meta wall_time clock_synced monotonic_ns boot_id device origin change; do
        psql -qXc "COPY (SELECT $column FROM jarvis.messages ORDER BY change) TO STDOUT" >"$work/column"
        printf '%-40s %9s' "$column" "$(stat -c %s "$work/column" | awk '{ printf "%.1f", $1 / 1048576 }')"
        for level in 3 9; do
            of=$(zstd -q -T2 "-$level" --long=24 <"$work/column" | wc -c)
            printf ' %9s' "$(awk -v b="$of" 'BEGIN { printf "%.2f", b / 1048576 }')"
        done
        echo
    done
    rm "$work/column"
}

IFS=, read -r -a parts <<<"$what"
for part in "${parts[@]}"; do
    case "$part" in
    backups | levels | turns | columns) "$part" ;;
    *) usage >&2; exit 2 ;;
    esac
done
