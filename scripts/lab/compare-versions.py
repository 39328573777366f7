#!/usr/bin/env python3
"""Two builds of jarvisd side by side: listening, spoken turns, typed turns, drain, backup.

    scripts/lab/compare-versions.py OLD NEW [--old-checkout DIR] [--rounds N] [--messages N]

OLD and NEW are programs of the same build profile. Each runs in its checkout, where its models are: NEW in
this one, OLD in DIR if these have changed. They take turns, so that other work on the machine meets both; of N
rounds (3) the smallest figure counts, and the ratio is NEW to OLD. CPU is user and system time of the process;
memory is the largest resident size. Needs flite, sox, PostgreSQL, the models (scripts/fetch-models.sh), and root
or the account that runs the server. Nothing is left behind.
"""
import argparse
import glob
import json
import os
import pathlib
import random
import resource
import subprocess
import tempfile
import time
import uuid

ENROL = ["the quick brown fox jumps over the lazy dog while the old cat sleeps beside the warm kitchen fire",
         "please remember to water the plants in the living room every monday and thursday before the news",
         "my favourite season is autumn when the leaves turn red and gold and the air smells of rain"]
SAID = ["what time is it", "remember that the ladder is in the shed", "what do you remember about the ladder",
        "remember that the bicycle is in the cellar", "who am i", "what do you remember about the bicycle"]


def run(*command, **options):
    words = [str(part) for part in command]
    return subprocess.run(words, check=True, capture_output=True, text=True, **options)


def measured(*command, cwd):
    """Wall clock and CPU in seconds, largest resident size in MiB."""
    begun = time.monotonic()
    child = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=cwd)
    told = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed: {told.decode()}")
    return time.monotonic() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def say(folder, name, text):
    run("flite", "-voice", "rms", "-t", text, "-o", folder / "raw.wav")
    out = folder / name
    run("sox", "-R", folder / "raw.wav", "-r", 16000, "-c", 1, "-b", 16, out, "gain", "-n", -3, "pad", 0.5, 2)
    return out


def quiet(folder, seconds):
    out = folder / f"quiet{seconds}.wav"
    run("sox", "-R", "-n", "-r", 16000, "-c", 1, "-b", 16, out, "synth", seconds, "brownnoise", "vol", 0.003)
    return out


def postgres(folder):
    """A server without a network, and how it is stopped."""
    tools = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
    as_server = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
    who = as_server if os.getuid() == 0 else []
    if who:
        run("chown", "postgres", folder)
    run(*who, f"{tools}/initdb", "-D", folder / "data", "-U", "jarvis", "-A", "trust", "-E", "UTF8",
        "--locale=C.UTF-8", "--no-sync")
    with open(folder / "data/postgresql.conf", "a", encoding="utf8") as conf:
        conf.write(f"listen_addresses = ''\nunix_socket_directories = '{folder}'\n")
    # Not captured: the server would keep the pipe open.
    subprocess.run([*who, f"{tools}/pg_ctl", "-D", folder / "data", "-l", folder / "log", "-w", "start"],
                   check=True, stdout=subprocess.DEVNULL)
    return lambda: run(*who, f"{tools}/pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")


def conversations(messages):
    """Made-up conversations of fifty messages as `conversation import` reads them."""
    words = pathlib.Path("README.md").read_text(encoding="utf8").split()
    dice, made, start = random.Random(7), [], 1_700_000_000_000
    for number in range(messages // 50):
        at = start + number * 60_000
        made.append({
            "id": str(uuid.UUID(int=dice.getrandbits(128), version=4)), "title": f"number {number}",
            "created_unix_ms": at, "updated_unix_ms": at,
            "messages": [{
                "id": str(uuid.UUID(int=dice.getrandbits(128), version=4)), "seq": seq,
                "role": "user" if seq % 2 else "assistant", "kind": "say",
                "text": " ".join(dice.choices(words, k=12)), "wall_unix_ms": at + seq, "clock_synced": True,
            } for seq in range(1, 51)],
        })
    return made


def one(program, checkout, folder, sound, said, messages):
    """Every figure of one program, once."""
    root = folder / "root"
    (root / "etc/jarvis").mkdir(parents=True)

    def measure(*command):
        return measured(program, "--root", root, *command, cwd=checkout)

    def do(*command):
        return run(program, "--root", root, *command, cwd=checkout)

    do("user", "add", "Anna")
    do("voice", "enroll", "--user", "Anna", *sound["enrol"])
    figures = {}
    short, long = (measure("listen", file)[1] for file in sound["quiet"])
    figures["listening, CPU ms per second of sound"] = (long - short) * 1000 / 110
    _, cpu, memory = measure("listen", sound["tape"])
    figures["start and six spoken turns, CPU s"] = cpu
    figures["start and six spoken turns, memory MiB"] = memory
    question = "what do you remember about the ladder"
    asks = [measure("ask", "--user", "Anna", question) for _ in range(20)]
    figures["a typed turn with its process, CPU ms"] = min(cpu for _, cpu, _ in asks) * 1000
    do("conversation", "import", "--user", "Anna", said)
    wall, cpu, memory = measure("backup", "create")
    figures[f"backup, {messages} messages, CPU s"] = cpu
    figures["backup, memory MiB"] = memory
    (folder / "server").mkdir()
    folder.chmod(0o755)
    stop = postgres(folder / "server")
    try:
        run("createdb", "-h", folder / "server", "-U", "jarvis", "jarvis")
        (root / "etc/jarvis/jarvis.toml").write_text(
            f'[store]\npostgres_url = "postgres://jarvis@/jarvis?host={folder}/server"\n', encoding="utf8")
        wall, cpu, memory = measure("queue", "drain")
        figures[f"drain, {messages} messages, wall clock s"] = wall
        figures["drain, CPU s"] = cpu
        figures["drain, memory MiB"] = memory
    finally:
        stop()
    return figures


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("old", type=pathlib.Path)
    options.add_argument("new", type=pathlib.Path)
    options.add_argument("--old-checkout", type=pathlib.Path, default=pathlib.Path("."))
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--messages", type=int, default=20_000)
    args = options.parse_args()
    os.environ["JARVIS__STT__ENGINE"] = "whisper"
    found = {"old": [], "new": []}
    checkouts = {"old": args.old_checkout.resolve(), "new": pathlib.Path(".").resolve()}
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        work.chmod(0o755)
        parts = [say(work, f"{n}.wav", f"hey jarvis, {text}") for n, text in enumerate(SAID)]
        run("sox", *parts, work / "tape.wav")
        sound = {"enrol": [say(work, f"enrol{n}.wav", text) for n, text in enumerate(ENROL)],
                 "quiet": [quiet(work, 10), quiet(work, 120)], "tape": work / "tape.wav"}
        said = work / "said.json"
        said.write_text(json.dumps(conversations(args.messages)), encoding="utf8")
        for number in range(args.rounds):
            for name in sorted(found, reverse=number % 2 == 0):
                folder = work / f"{name}{number}"
                folder.mkdir()
                program = getattr(args, name).resolve()
                found[name].append(one(program, checkouts[name], folder, sound, said, args.messages))
    print("| figure | old | new | ratio |\n|---|---:|---:|---:|")
    for figure in found["old"][0]:
        old, new = (min(once[figure] for once in found[name]) for name in ("old", "new"))
        print(f"| {figure} | {old:.3g} | {new:.3g} | {new / old:.2f} |")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
