#!/usr/bin/env python3
"""How long each model will take on a Raspberry Pi: an estimate from counted instructions (docs/design/performance.md).

    cargo --config profile.dev.package.jarvisd.opt-level=3 build --bin jarvisd
    scripts/lab/pi-estimate.py PROGRAM RECORDING [--root DIR]

Callgrind counts the instructions of `jarvisd bench models` on this x86 machine, apart for the matrix kernels of tract
and for everything else, and apart from loading. In the kernels an instruction of AVX2 works on 8 numbers and one of NEON
on 4, so theirs count twice; the rest is scalar or 4 numbers wide on both. The time is instructions by (instructions a
cycle × frequency). Then the same formula is held against the time that this machine takes. Needs valgrind.
"""
import argparse
import collections
import glob
import json
import pathlib
import re
import subprocess
import sys
import tempfile

# A stage, the function that begins its part of the profile, the function that is counted, and how many of its calls
# make one unit (None: as many as there were rounds make one each).
STAGES = [
    ("front_end", None, "FrontEnd::push", 100),
    ("voice_activity", "*Vad*new*", "Vad::push", 100),
    ("wake_word", "*WakeChain*new*", "WakeChain::push", 100),
    ("speaker_check", "*SpeakerModel*load", "SpeakerModel::embed", 1),
    ("who_speaks_when", "*OverlapModel*load*", "OverlapModel::overlap_s", 1),
    ("speech_to_text", "*WhisperRecognizer*load*", "Recognizer>::finish", 1),
]
KERNEL = re.compile(r"\b(fma|avx2?|avx512|sse)_?\w*(mmm|mmv|f32|f16)|mmm_f32|mmv_f32|rustfft::avx")
# Instructions a cycle of the kernels (at most two, of which most multiply), of the rest, and GHz; low and high.
# Kernels: FMLA of four numbers takes both pipes of a Cortex-A72 (one a cycle) and one of the two of a Cortex-A76 (two a
# cycle), after Arm's Software Optimization Guides. Loads go beside them.
BOARDS = {
    "Pi 4": {"ghz": 1.8, "kernel": (0.9, 1.5), "rest": (0.8, 1.6)},
    "Pi 5": {"ghz": 2.4, "kernel": (1.8, 3.0), "rest": (1.5, 3.0)},
}


def parts_of(profile):
    """For each part of a profile: self cost of each function; calls of each, and what they cost with all below them."""
    for path in sorted(glob.glob(profile + ".*"), key=lambda p: int(p.rsplit(".", 1)[1])) + [profile]:
        names, cost, calls, whole = {}, collections.Counter(), collections.Counter(), collections.Counter()

        def named(text):
            number, name = re.fullmatch(r"\((\d+)\)(?: (.*))?", text).groups()
            if name:
                names[number] = name
            return names[number]

        function, skip = None, False
        for line in open(path, errors="replace"):
            line = line.rstrip("\n")
            if line.startswith("fn="):
                function = named(line[3:])
            elif line.startswith("cfn="):
                called = named(line[4:])
            elif line.startswith("calls="):
                calls[called] += int(line[6:].split()[0])
                skip = True
            elif line[:1] in "+-*0123456789" and line:
                if skip:
                    skip = False
                    whole[called] += int(line.split()[1])
                else:
                    cost[function] += int(line.split()[1])
        yield cost, calls, whole


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("program")
    arguments.add_argument("recording")
    arguments.add_argument("--root", default="/")
    arguments.add_argument("--profile", help="a profile that is there already")
    given = arguments.parse_args()
    bench = [given.program, "--root", given.root, "bench", "models", given.recording, "--json"]
    timed = json.loads(subprocess.run(bench, check=True, capture_output=True, text=True).stdout)
    measured = {timing["stage"]: timing["ms"] for timing in reversed(timed["models"])}
    profile = given.profile
    if not profile:
        profile = str(pathlib.Path(tempfile.mkdtemp()) / "callgrind.out")
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}"]
        valgrind += [f"--dump-before={begin}" for _, begin, _, _ in STAGES if begin]
        valgrind += [f"--toggle-collect=*{run.replace('::', '*').replace('>', '*')}*" for _, _, run, _ in STAGES]
        subprocess.run(valgrind + bench, check=True, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    counted = {}
    for cost, calls, whole in parts_of(profile):
        total = sum(cost.values())
        # Stages that share a part (a loader that was inlined begins none) share the share of kernels.
        share = sum(n for name, n in cost.items() if name and KERNEL.search(name)) / max(total, 1)
        for stage, _, run, unit in STAGES:
            made = sum(n for name, n in calls.items() if run in name)
            taken = sum(n for name, n in whole.items() if run in name) / max(made, 1) * unit
            if taken > sum(counted.get(stage, (0, 0))):
                counted[stage] = (share * taken, (1 - share) * taken)
    print("| stage | million instructions, kernels + rest | this machine, ms | "
          + " | ".join(f"{board}, ms" for board in BOARDS) + " |")
    print("|---|---|---|" + "---|" * len(BOARDS))
    for stage, *_ in STAGES:
        if stage not in counted:
            print(f"| {stage} | not counted | | |")
            continue
        kernels, rest = counted[stage]
        cells = []
        for board in BOARDS.values():
            ms = [
                (2 * kernels / board["kernel"][n] + rest / board["rest"][n]) / (board["ghz"] * 1e6) for n in (1, 0)
            ]
            cells.append(f"{ms[0]:.0f} to {ms[1]:.0f}" if ms[1] >= 10 else f"{ms[0]:.1f} to {ms[1]:.1f}")
        print(f"| {stage} | {kernels / 1e6:.1f} + {rest / 1e6:.1f} | {measured.get(stage, 0):.1f} | "
              + " | ".join(cells) + " |")
    print(f"\nprofile: {profile}", file=sys.stderr)


main()
