#!/usr/bin/env python3
"""What a speaker check costs beside onnxruntime, one thread each, in turns: ours, onnxruntime, ours, onnxruntime …

    pip install numpy onnxruntime
    cargo build --release --example speaker_speed
    scripts/lab/speaker-speed.py [PROGRAM]        (default: target/release/examples/speaker_speed)

Ours is filter bank, network and normalisation of sound of each length, as the daemon runs it (padded to 2 or 3 s, or in
windows of 3 s); onnxruntime's is the same model file alone, on exactly as many frames as the sound has. CPU milliseconds
of the thread: both sides suffer alike from what else runs, so the ratio stands where the milliseconds do not.
"""
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import numpy as np
import onnxruntime as ort

ROUNDS = 21
root = pathlib.Path(__file__).resolve().parents[2]
program = sys.argv[1] if len(sys.argv) > 1 else root / "target/release/examples/speaker_speed"
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
session = ort.InferenceSession(str(root / "models/campplus_zh_en_192.f16.onnx"), options)
rng = np.random.default_rng(1)
ours = subprocess.Popen([program, root / "models"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def of_ours(samples):
    ours.stdin.write(f"{samples}\n")
    ours.stdin.flush()
    return float(ours.stdout.readline())


def of_onnxruntime(feats):
    start = time.thread_time()
    session.run(None, {"feats": feats})
    return (time.thread_time() - start) * 1e3


model_name = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "")
print(f"{platform.machine()} {model_name}, onnxruntime {ort.__version__}, medians of {ROUNDS} turns (least), CPU ms")
print("| speech | ours | onnxruntime, model alone | ratio |\n|---|---|---|---|")
for seconds in (1, 2, 3, 5):
    samples = seconds * 16_000
    feats = rng.standard_normal((1, 1 + (samples - 400) // 160, 80)).astype(np.float32)
    of_ours(samples), of_onnxruntime(feats)  # the first run of a length allocates
    pairs = [(of_ours(samples), of_onnxruntime(feats)) for _ in range(ROUNDS)]
    a, b = zip(*pairs)
    ratio = statistics.median(x / y for x, y in pairs)
    print(f"| {seconds} s | {statistics.median(a):.1f} ({min(a):.1f}) | {statistics.median(b):.1f} ({min(b):.1f}) | {ratio:.2f} |")
ours.stdin.close()
ours.wait()
