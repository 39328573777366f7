# Files of jarvis-setup: changes with a way back, and single keys of jarvis.toml; sourced, not run.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # variables are shared with jarvis-setup

# --- files, each with a way back --------------------------------------------------------------------------------------

# take_back FOLDER: brings every file back of which the folder holds a copy, and removes those that were not there.
# Fails where one of them cannot be written; the copies are still needed then.
take_back() {
    local path failed=0
    [ -f "$1/files" ] || return 0
    while IFS= read -r path; do
        rm -f "$root$path.jarvis-setup" || true
        if [ -e "$1/copies$path" ] || [ -L "$1/copies$path" ]; then
            cp -a "$1/copies$path" "$root$path.jarvis-setup" && mv "$root$path.jarvis-setup" "$root$path"
        else
            rm -f "$root$path"
        fi || { failed=1 && printf 'jarvis-setup: %s could not be brought back\n' "$root$path" >&2; }
    done <"$1/files"
    sync
    return $failed
}


# change PATH NEW MODE [OWNER]: puts the file NEW in the place of $root$PATH, in one step, after a copy of what is there.
# An empty NEW removes it.
change() {
    local path=$1 new=$2 mode=$3 owner=${4:-}
    if [ -n "$new" ] && [ -e "$root$path" ] && cmp -s "$new" "$root$path"; then return 0; fi
    if [ -z "$new" ] && [ ! -e "$root$path" ]; then return 0; fi
    changed=yes
    [ "$dry_run" = no ] || return 0
    if ! grep -qxF "$path" "$memory/running/files" 2>/dev/null; then
        install -d -m 700 "$memory/running"
        if [ -e "$root$path" ]; then
            install -d "$(dirname "$memory/running/copies$path")"
            cp -a "$root$path" "$memory/running/copies$path"
        fi
        printf '%s\n' "$path" >>"$memory/running/files"
        sync
    fi
    if [ -z "$new" ]; then
        rm -f "$root$path"
        return 0
    fi
    install -d -m 755 "$(dirname "$root$path")"
    cat "$new" >"$root$path.jarvis-setup"
    [ -z "$owner" ] || [ -n "$root" ] || chown "$owner" "$root$path.jarvis-setup"
    # A FAT partition has neither modes nor owners.
    chmod "$mode" "$root$path.jarvis-setup" 2>/dev/null || true
    # The content is on the disk before the name is: a power cut leaves the old file or the new one.
    sync "$root$path.jarvis-setup"
    mv "$root$path.jarvis-setup" "$root$path"
}

# Passwords in addresses are not shown: a run without a person is in the journal.
masked() { sed -E 's,(://[^/@: ]*:).*@,\1***@,; s,((^|[?& ])password=)[^&" ]*,\1***,g'; }

# show_change PATH NEW: the difference that `change` would make; of a new file its settings, without the comments.
show_change() {
    if [ -e "$root$1" ]; then
        diff -u --label "$1 (now)" --label "$1 (new)" "$root$1" "$2" | masked | sed 's/^/    /' || true
        return
    fi
    printf '    +++ %s (a new file, as %s)\n' "$1" "$(basename "$2")"
    grep -vE '^[[:space:]]*(#|$)' "$2" | masked >"$work/settings" || true
    if [ "$(wc -l <"$work/settings")" -le 20 ]; then
        sed 's/^/    +/' "$work/settings"
    else
        printf '    +… %s lines, each with its reason, in %s\n' "$(wc -l <"$work/settings")" "$(realpath "$2")"
    fi
}

# --- the configuration ------------------------------------------------------------------------------------------------

# in_force FILE: every key in force with this file, as lines "section.key<TAB>value<TAB>place", values as TOML.
in_force() {
    jarvisd --config "$1" check-config --print 2>/dev/null | awk '
        /^\[/ {section = substr($0, 2, length($0) - 2); next}
        match($0, /^[a-z_]+ = /) {
            key = substr($0, 1, RLENGTH - 3); rest = substr($0, RLENGTH + 1); place = ""
            if (match(rest, /  # [^#]*$/)) {place = substr(rest, RSTART + 4); rest = substr(rest, 1, RSTART - 1)}
            print section "." key "\t" rest "\t" place
        }'
}
# now SECTION.KEY: its value as plain text.
now() {
    local value
    value=$(awk -F '\t' -v key="$1" '$1 == key {print $2; exit}' "$work/now")
    # Texts with quotes or backslashes may be printed as literal ones.
    if [[ $value == "'''"*"'''" ]]; then
        value=${value#"'''"} && value=${value%"'''"}
    elif [[ $value == "'"*"'" ]]; then
        value=${value#"'"} && value=${value%"'"}
    elif [[ $value == \"*\" ]]; then
        value=${value#\"} && value=${value%\"}
        value=${value//\\\"/\"} && value=${value//\\\\/\\}
    fi
    printf '%s' "$value"
}
text() { local value=${1//\\/\\\\}; printf '"%s"' "${value//\"/\\\"}"; } # as TOML

# set_key SECTION.KEY VALUE: sets one key in $work/new.toml, as TOML, and leaves every other line as it is. Without a
# VALUE the line becomes a comment.
set_key() {
    local at=0
    SECTION=${1%.*} KEY=${1#*.} VALUE=$2 awk '
        function header(text) {
            sub(/^[ \t]*\[[ \t]*/, "", text); sub(/[ \t]*\].*$/, "", text); gsub(/"/, "", text)
            return text
        }
        {line[NR] = $0}
        END {
            section = ENVIRON["SECTION"]; key = ENVIRON["KEY"]; value = ENVIRON["VALUE"]
            for (n = 1; n <= NR; n++) {
                if (line[n] ~ /^[ \t]*\[/) {
                    inside = header(line[n]) == section
                    if (inside && !last) last = n
                } else if (inside) {
                    if (line[n] ~ "^[ \t]*\"?" key "\"?[ \t]*=") at = n
                    else if (line[n] ~ "^[ \t]*#[ \t]*" key "[ \t]*=") hint = n
                    if (line[n] !~ /^[ \t]*(#.*)?$/) last = n
                }
            }
            if (at) {
                begin = index(line[at], "="); rest = substr(line[at], begin + 1)
                if (rest ~ /^[ \t]*("""|\047\047\047)/ || rest ~ /^[ \t]*\[[^\]]*$/) exit 3
                match(rest, /^[ \t]*("([^"\\]|\\.)*"|\047[^\047]*\047|\[[^\]]*\]|[^#]*)/)
                tail = substr(rest, RLENGTH + 1)
                if (match(substr(rest, 1, RLENGTH), /[ \t]+$/)) tail = substr(rest, RSTART, RLENGTH) tail
                if (value == "") line[at] = "#" line[at]
                else line[at] = substr(line[at], 1, begin) " " value tail
            }
            add = value != "" && !at
            if (add && !last) line[++NR] = (NR > 1 && line[NR - 1] != "" ? "\n" : "") "[" section "]\n" key " = " value
            for (n = 1; n <= NR; n++) {
                print line[n]
                if (add && last && n == (hint ? hint : last)) print key " = " value
            }
        }' "$work/new.toml" >"$work/edited.toml" || at=$?
    [ "$at" -ne 3 ] || fail 1 "$1 goes over several lines in $config; change it there by hand, and leave this step out"
    [ "$at" -eq 0 ] || fail 1 "$config cannot be edited; is the disk full?"
    mv "$work/edited.toml" "$work/new.toml"
}

# wish SECTION.KEY VALUE: sets a text, if it is not in force already; "" takes it back.
wish() {
    [ "$(now "$1")" != "$2" ] || return 0
    wished[$1]=$2
    set_key "$1" "${2:+$(text "$2")}"
}
declare -A wished=()
