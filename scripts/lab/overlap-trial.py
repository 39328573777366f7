#!/usr/bin/env python3
"""How well pyannote's segmentation tells a second person inside an utterance from one person alone, and how often it is wrong.

    pip install numpy soundfile onnxruntime
    scripts/lab/overlap-trial.py MODEL AUDIO_DIR repeat|zero       MODEL: pyannote_segmentation_3.onnx
                                                               AUDIO_DIR: one 16 kHz recording of each of some 250 speakers

An utterance of up to 10 s is repeated, or padded with zeros, up to the 10 s that the network was trained on. Its frames (270 samples) fall
into seven classes: nobody, A, B, C, A+B, A+C, B+C. Two measures, in seconds, of "there is a second person":
"second": the frames of the second most frequent person, overlapped ones included; "overlap": frames with two at once.
Shares are given for even and odd files by order of name.
"""
import pathlib
import sys

import numpy as np
import onnxruntime as ort
import soundfile as sf

RATE = 16_000
WINDOW = 10 * RATE
FRAME_S = 270 / RATE
CLASSES = [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]

options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options)
files = sorted(pathlib.Path(sys.argv[2]).glob("*.flac"))
sounds = [sf.read(f, dtype="float32")[0] for f in files]
rng = np.random.default_rng(1)


def power(x):
    return float(np.mean(x * x)) + 1e-12


def noisy(x, snr_db):
    spectrum = np.fft.rfft(rng.standard_normal(len(x)))
    noise = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1), len(x))
    return (x + noise * np.sqrt(power(x) / power(noise) / 10 ** (snr_db / 10))).astype(np.float32)


def room(x):
    """Decaying reflections with RT60 0.25 to 0.55 s, 6 dB below the direct sound, and noise at 20 dB."""
    rt60 = rng.uniform(0.25, 0.55)
    t = np.arange(int(rt60 * RATE))
    tail = rng.standard_normal(len(t)) * np.exp(-6.9 * t / len(t)) * (t > 30)
    wet = np.convolve(x, tail * np.sqrt(0.25 / np.sum(tail**2)))[: len(x)]
    return noisy(0.5 * (x + wet), 20)


def measure(x):
    """Seconds of the second person, of overlap."""
    padded = np.zeros((1, 1, WINDOW), np.float32)
    padded[0, 0, : len(x)] = x[:WINDOW]
    if sys.argv[3] == "repeat":
        padded[0, 0] = np.resize(x[:WINDOW], WINDOW)
    frames = session.run(None, {"wav": padded})[0][0].argmax(-1)[: int(len(x) / 270)]
    each = [sum(int(np.sum(frames == c)) for c in range(7) if p in CLASSES[c]) for p in range(3)]
    return sorted(each)[1] * FRAME_S, int(np.sum(frames >= 4)) * FRAME_S


def part(i, start_s, seconds):
    return sounds[i][int(start_s * RATE) : int((start_s + seconds) * RATE)]


def level(x, y, db):
    return y * np.sqrt(power(x) / power(y) * 10 ** (db / 10))


def pairs(make):
    return {i: make(i, (i + 37) % len(sounds)) for i in range(len(sounds)) if len(sounds[i]) >= 7 * RATE}


def beside(i, j, seconds, db):
    a, b = part(i, 1, 4).copy(), part(j, 1, seconds)
    b = level(a, b, db)
    a[-len(b) :] += b
    return a


def behind(i, j, seconds):
    a, b = part(i, 1, 3), part(j, 1, seconds)
    return np.concatenate([a, level(a, b, 0)])


kinds = {
    "one person, 1 s, noise 10 dB": lambda i, j: noisy(part(i, 1, 1), 10),
    "one person, 2 s, noise 10 dB": lambda i, j: noisy(part(i, 1, 2), 10),
    "one person, 3 s, noise 10 dB": lambda i, j: noisy(part(i, 1, 3), 10),
    "one person, 2 s, room": lambda i, j: room(part(i, 1, 2)),
    "one person, 3 s": lambda i, j: part(i, 1, 3),
    "one person, 6 s": lambda i, j: part(i, 1, 6),
    "one person, 6 s, noise 20 dB": lambda i, j: noisy(part(i, 1, 6), 20),
    "one person, 6 s, noise 10 dB": lambda i, j: noisy(part(i, 1, 6), 10),
    "one person, 6 s, noise 5 dB": lambda i, j: noisy(part(i, 1, 6), 5),
    "one person, 6 s, room": lambda i, j: room(part(i, 1, 6)),
    "3 s, then another 0.5 s": lambda i, j: behind(i, j, 0.5),
    "3 s, then another 1 s": lambda i, j: behind(i, j, 1),
    "3 s, then another 2 s": lambda i, j: behind(i, j, 2),
    "3 s, then another 2 s, room": lambda i, j: room(behind(i, j, 2)),
    "4 s, over the end another 1 s": lambda i, j: beside(i, j, 1, 0),
    "4 s, over the end another 2 s": lambda i, j: beside(i, j, 2, 0),
    "the same, 6 dB lower": lambda i, j: beside(i, j, 2, -6),
    "the same, 12 dB lower": lambda i, j: beside(i, j, 2, -12),
    "4 s, over the end another 2 s, room": lambda i, j: room(beside(i, j, 2, 0)),
}
BARS = (0.25, 0.5, 0.75, 1.0)
head = " | ".join(f"second ≥ {b} s" for b in BARS) + " | overlap ≥ 0.25 s | overlap ≥ 0.5 s"
print(f"found, even / odd files\n\n| | trials | {head} |\n|---|---|" + "---|" * (len(BARS) + 2))
for name, make in kinds.items():
    results = {i: measure(x) for i, x in pairs(make).items()}
    cells = []
    for which, bars in ((0, BARS), (1, (0.25, 0.5))):
        for bar in bars:
            of = lambda odd: np.mean([m[which] >= bar for i, m in results.items() if i % 2 == odd])
            cells.append(f"{100 * of(0):.1f} / {100 * of(1):.1f} %")
    print(f"| {name} | {len(results)} | " + " | ".join(cells) + " |", flush=True)
