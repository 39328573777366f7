# Runs the commands of a page in the container of try-docs.sh, in one shell, as an ordinary person who may use sudo. Sourced
# by the scripts that docs-commands.py writes; the functions named setup_* are what the marks of the pages ask for.
# shellcheck shell=bash
set -m
cd ~/jarvis || exit 1
said=$(mktemp)

verdict() { # verdict ok|FAIL PLACE TEXT [MORE]
    printf '    %-5s %s  %s%s\n' "$1" "$2" "$3" "${4:+  ($4)}"
    if [ "$1" != ok ] || [ -e ~/plan/show ]; then tail -n 25 "$said" | sed 's/^/          /'; fi
}

# documented PLACE NAME TEXT [expect=CODE] [stop=SECONDS] [terminal] [type=LINE...]: one command of a page.
documented() {
    local place=$1 name=$2 text=$3 expected=0 stop='' typed=() typing='' option status begun=$SECONDS
    shift 3
    for option in "$@"; do
        case $option in
        expect=*) expected=${option#*=} ;;
        stop=*) stop=${option#*=} ;;
        terminal) typing=yes ;;
        type=*) typed+=("${option#*=}") ;;
        esac
    done
    if [ -n "$stop" ]; then
        eval "$text" >"$said" 2>&1 </dev/null &
        local job=$!
        sleep "$stop"
        if kill -INT -- "-$job" 2>/dev/null; then
            # The shell would tell of the end of the job.
            { wait "$job"; } 2>/dev/null
            status=$?
            # 130: ended by Ctrl-C.
            [ $status -ne 130 ] || status=0
        else
            wait "$job"
            echo "it ended by itself with $?, before it was stopped" >>"$said"
            status=stopped
        fi
    elif [ -n "$typing" ]; then
        declare -f >"$said.functions"
        scripts/docs-type.py ". $said.functions; $text" "${typed[@]}" >"$said" 2>&1 </dev/null
        status=$?
    else
        eval "$text" >"$said" 2>&1 </dev/null
        status=$?
    fi
    local more=''
    [ $((SECONDS - begun)) -lt 5 ] || more="$((SECONDS - begun)) s"
    if [ "$status" = "$expected" ]; then
        [ "$expected" = 0 ] || more="exit code $status, as expected"
        verdict ok "$place" "$name" "$more"
    else
        case $text in *systemctl*) journalctl -u 'jarvis*' -o cat --no-pager -n 20 >>"$said" 2>&1 ;; esac
        verdict FAIL "$place" "$name" "exit code $status"
    fi
}

# setup PLACE NAME: what has to be so before the next command.
setup() {
    "setup_$2" >"$said" 2>&1 </dev/null || verdict FAIL "$1" "setup_$2"
}

# write_file PLACE FILE TEXT: a file of a page, as the page has it.
write_file() {
    sudo mkdir -p "$(dirname "$2")"
    printf '%s' "$3" | sudo tee "$2" >/dev/null
    printf '    file  %s  %s\n' "$1" "$2"
}

# --- values that a reader puts in -------------------------------------------------------------------------------------

# A command that gets a terminal runs in a shell of its own.
export lost_backup='' lost_conversation='' moment=''
newest_backup() { sudo jarvisd backup list --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[-1]["name"])'; }

# --- what the marks ask for -------------------------------------------------------------------------------------------

# Somebody reads aloud what the program shows: three sentences, one from across the room, and one to try the voice. A
# process of its own, which holds no output of the page open.
setup_reader() { read_aloud /opt/sound/hand; }
setup_reader_in_the_room() { read_aloud /opt/sound/room; }
read_aloud() {
    # shellcheck disable=SC2016 # expanded by the inner shell
    setsid timeout 120 bash -c '
        for name in anna1 anna2 anna3 across anna4; do
            cp "/opt/voices/$name.raw" "$1/next"
            mv "$1/next" "$1/say.raw"
            while [ -e "$1/say.raw" ]; do sleep 0.1; done
            # The sentence itself, the silence that ends it, and the comparison.
            sleep 11
        done' read_aloud "$1" >/dev/null 2>&1 </dev/null &
    disown
}
setup_a_recording() { cp /opt/voices/anna1.wav me.wav; }
setup_a_trial() { cp /opt/voices/anna4.wav me.wav; }
setup_more_recordings() {
    cp /opt/voices/anna4.wav evening.wav
    for n in 1 2 3; do cp "/opt/voices/anna$n.wav" "new$n.wav"; done
}
setup_further_recordings() {
    sudo jarvisd voice enroll --user Anna new1.wav new2.wav new3.wav
    for name in across kitchen loud hurry; do cp "/opt/voices/$name.wav" .; done
}
setup_voice_and_pins() {
    sudo jarvisd voice enroll --user Anna new1.wav new2.wav new3.wav && sudo systemctl restart jarvisd
}
setup_trials() {
    for n in 1 2 3; do cp "/opt/voices/anna$n.wav" .; done
    cp /opt/voices/anna4.wav anna-test.wav
    cp /opt/voices/ben1.wav ben-test.wav
}
setup_recordings_in_tmp() {
    for n in 1 2 3; do install -m 644 "/opt/voices/anna$n.wav" /tmp; done
}

# The page before leaves the device stopped, as a reader in an emergency would.
setup_running() { sudo systemctl reset-failed jarvisd; sudo systemctl restart jarvisd; }
setup_a_voice() {
    sudo jarvisd voice enroll --user Anna --replace /opt/voices/anna1.wav /opt/voices/anna2.wav /opt/voices/anna3.wav &&
        cp /opt/voices/anna4.wav test.wav
}

setup_broker() {
    printf '%s\n' 'listener 1883' 'allow_anonymous true' 'password_file /etc/mosquitto/passwords' |
        sudo tee /etc/mosquitto/conf.d/house.conf
    sudo touch /etc/mosquitto/passwords
    sudo mosquitto_passwd -b /etc/mosquitto/passwords jarvis secret
    sudo chown mosquitto: /etc/mosquitto/passwords
    echo secret | sudo install -m 640 -g jarvis /dev/stdin /etc/jarvis/mqtt-password
    sudo systemctl restart mosquitto && sudo systemctl restart jarvisd
}

setup_postgres_conf() {
    printf '%s\n' "listen_addresses = '*'" "ssl_cert_file = '/var/lib/postgresql/server.crt'" \
        "ssl_key_file = '/var/lib/postgresql/server.key'" | sudo tee -a /etc/postgresql/*/main/postgresql.conf
    echo 'hostssl  jarvis  jarvis  127.0.0.1/32  scram-sha-256' | sudo tee -a /etc/postgresql/*/main/pg_hba.conf
}

# --- backups ----------------------------------------------------------------------------------------------------------

setup_nas() {
    sudo install -d -o jarvis -g jarvis /srv/nas
    # As the page says it is made; what was there before would change the questions.
    sudo rm -f /etc/jarvis/rclone.conf
}
# The page begins with the emergencies, which need what it tells later.
setup_backup_elsewhere() {
    setup_nas
    printf '[nas]\ntype = alias\nremote = /srv/nas\n' |
        sudo install -o jarvis -g jarvis -m 600 /dev/stdin /etc/jarvis/rclone.conf
    printf '[backup]\nremote = "nas:backups/kitchen"\nrclone_config_file = "/etc/jarvis/rclone.conf"\n' |
        sudo tee /etc/jarvis/conf.d/backup.toml
    sudo jarvisd backup create
}
setup_backup_elsewhere_only() {
    lost_backup=$(sudo jarvisd backup list --remote --json |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["copies"][-1]["name"])')
    [ -n "$lost_backup" ] && sudo rm -r "/var/backups/jarvis/$lost_backup"
}
# Something is written after it, or the log of the server does not reach that far.
setup_moment() {
    sleep 1.1
    moment=$(date '+%F %T%:z')
    sleep 1.1
    sudo jarvisd ask --user Anna "remember that the ladder is in the shed" && sudo jarvisd queue drain
    sudo -u postgres psql -qc 'SELECT pg_switch_wal()'
}
setup_card_is_new() {
    sudo systemctl stop jarvisd
    sudo sh -c 'rm -rf /var/lib/jarvis/jarvis.db* /var/lib/jarvis/backups.json /var/backups/jarvis/*'
}
setup_another_server() {
    sudo systemctl stop jarvisd
    sudo -u postgres dropdb --force jarvis
    sudo -u postgres createdb --owner jarvis --encoding UTF8 --template template0 jarvis
}
# On a device without Postgres, with a backup of its own.
setup_memory_is_missing() {
    sudo systemctl stop jarvisd
    [ ! -e /etc/jarvis/conf.d/store.toml ] || sudo mv /etc/jarvis/conf.d/store.toml /etc/jarvis/store.toml.off
    sudo jarvisd backup create && sudo sh -c 'rm -f /var/lib/jarvis/jarvis.db /var/lib/jarvis/jarvis.db-*'
}
setup_with_postgres() {
    sudo mv /etc/jarvis/store.toml.off /etc/jarvis/conf.d/store.toml
    sudo jarvisd store take-over --yes && sudo jarvisd queue drain && sudo jarvisd store pull && sudo jarvisd backup create
}
setup_conversation_is_deleted() {
    sudo jarvisd ask --user Anna "remember that the ladder is in the shed" && sudo jarvisd queue drain &&
        sudo jarvisd backup create
    lost_conversation=$(sudo jarvisd conversation list --user Anna --json |
        python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["id"])')
    sudo jarvisd conversation delete --user Anna --yes "$lost_conversation"
}
