# Questions of jarvis-setup, to a person or to a file of answers, and the checks of what they answer; sourced, not run.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # variables are shared with jarvis-setup

next_line() { # reads one line of the person into $typed
    IFS= read -r typed || fail 2 "the answers ended before the questions; for a run without a person use --answers"
}

# step NAME TITLE: whether it is to be done.
step() {
    if [ -n "$answers" ]; then
        [[ " ${given[skip]-} " == *" $1 "* ]] && return 1
        printf '\n== %s\n' "$2"
        return 0
    fi
    printf '\n== %s   (Enter: go on, s: leave it as it is) ' "$2"
    next_line
    [ "${typed,,}" != s ]
}

# ask KEY QUESTION DEFAULT CHECK: sets $answer. CHECK prints what is wrong with $1, and fails then.
ask() {
    local key=$1 question=$2 default=$3 check=$4 wrong
    if [ -n "$answers" ]; then
        answer=${given[$key]:-$default}
        wrong=$("$check" "$answer") || fail 2 "$key = $(masked <<<"$answer"): $wrong; nothing was changed"
        note "$question: $(masked <<<"${answer:-not set}")"
        return
    fi
    while :; do
        printf '    %s [%s]: ' "$question" "${default:-not set}"
        next_line
        answer=${typed:-$default}
        wrong=$("$check" "$answer") && return
        note "$wrong"
    done
}

# choose KEY QUESTION DEFAULT CHECK OPTION...: the same, where an option can be given by its number. An option is a
# name, and behind a tab the words for it.
choose() {
    local key=$1 question=$2 default=$3 check=$4 n
    shift 4
    options=("$@")
    chosen_check=$check
    if [ -z "$answers" ]; then
        for n in "${!options[@]}"; do note "$(printf '%2d  %s' $((n + 1)) "${options[n]//$'\t'/   }")"; done
    fi
    ask "$key" "$question" "$default" check_choice
    answer=$(option "$answer")
}
option() { # the name of an option that was given by its number
    if [[ $1 =~ ^[0-9]{1,3}$ ]] && [ "$1" -ge 1 ] && [ "$1" -le ${#options[@]} ]; then
        printf '%s' "${options[$1 - 1]%%$'\t'*}"
    else
        printf '%s' "$1"
    fi
}
check_choice() { "$chosen_check" "$(option "$1")"; }

yes_no() { # yes_no QUESTION DEFAULT
    if [ -n "$answers" ]; then [ "$2" = yes ]; return; fi
    while :; do
        printf '    %s [%s]: ' "$1" "$([ "$2" = yes ] && echo Y/n || echo y/N)"
        next_line
        case ${typed,,} in
        '') [ "$2" = yes ]; return ;;
        y | yes) return 0 ;;
        n | no) return 1 ;;
        *) note "y or n" ;;
        esac
    done
}

# ask_secret KEY QUESTION PLACE: a password goes to $work/PLACE, which stays away where there is none to change. It is
# never an argument of a program.
ask_secret() {
    local secret='' from=${given[$1]-}
    if [ -n "$answers" ]; then
        [ -n "$from" ] || return 0
        [ -f "$from" ] || fail 2 "$1 = $from: there is no such file; nothing was changed"
        IFS= read -r secret <"$from" || true
        secret=${secret%$'\r'}
        [ -n "$secret" ] || fail 2 "$1 = $from: its first line is empty; nothing was changed"
    else
        printf '    %s (not shown; Enter: as it is): ' "$2"
        IFS= read -rs secret || fail 2 "the answers ended before the questions"
        printf '\n'
        [ -n "$secret" ] || return 0
    fi
    printf '%s\n' "$secret" >"$work/$3"
}

# The rules for a value are those of jarvisd: it is asked with the value in its environment.
check_key() { # check_key SECTION.KEY VALUE
    local name=JARVIS__${1%.*}__${1#*.} said
    name=${name^^}
    said=$(export "$name=$2"; jarvisd check-config 2>&1 >/dev/null) && return 0
    said=$(grep -F "${name}" <<<"$said" | head -n 1) || return 0
    said=${said#jarvisd: }
    said=${said##*"$1": }
    printf '%s' "${said#"${said%%[![:space:]]*}"}"
    return 1
}
check_id() { check_key device.id "$1"; }
check_name() { check_key device.name "$1"; }
check_wake() { check_key wake.model "$1"; }
check_url() {
    [ "$1" != none ] && [ -n "$1" ] || return 0
    check_key mqtt.url "$1"
}
check_user() { [[ $1 != *[[:cntrl:]]* ]] || { printf 'a user name has no such characters'; return 1; }; }
check_postgres() {
    # An address with a password is shown masked, and Enter keeps it.
    [ "$1" != none ] && [ -n "$1" ] && [ "$1" != "$(now store.postgres_url)" ] || return 0
    if [[ $1 =~ ^[a-z]+://[^/@]*:.*@ || $1 =~ [?\&]password= ]]; then
        printf 'leave the password out of the address; it is asked for next'
        return 1
    fi
    check_key store.postgres_url "$1"
}
check_on() { [[ $1 == on || $1 == off ]] || { printf 'it is on or off'; return 1; }; }
check_folder() {
    # It stands in a drop-in for units, where the others have a meaning.
    if [[ $1 != /* || $1 == *[[:space:][:cntrl:]\"\'\\%]* ]]; then
        printf 'it needs a path that begins with /, without blanks, quotes, backslashes and %%'
        return 1
    fi
    case ${1#"$root"}/ in
    /home/* | /root/* | /run/user/* | /tmp/* | /var/tmp/*)
        printf 'the service sees neither home folders nor /tmp; take another place, as in /mnt or /var/backups'
        return 1 ;;
    esac
}
check_person() { [[ $1 != -* && $1 != *[[:cntrl:]]* ]] || { printf 'it is a name, or none'; return 1; }; }
check_card() {
    [ "$1" = none ] || [ -f "$share/cards/$1.conf" ] ||
        { printf 'there is no card file "%s"; there are: none %s' "$1" "${cards[*]}"; return 1; }
}
check_device() { # as the list has it, or a way of ALSA to name one that it does not have
    case $1 in
    default | hw:* | plughw:* | jarvis_*) return 0 ;;
    esac
    printf '%s\n' "${options[@]}" | cut -f 1 | grep -qxF -- "$1" ||
        { printf 'ALSA knows no device "%s"; jarvisd sound list shows the names' "$1"; return 1; }
}
none_is_empty() { [ "$answer" != none ] || answer=; }
