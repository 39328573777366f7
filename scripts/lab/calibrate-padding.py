#!/usr/bin/env python3
"""Compares ways to bring speech to a fixed number of frames (docs/lab/speaker-version-1.md, "Plan lengths").

    pip install kaldi-native-fbank numpy onnxruntime soundfile
    scripts/lab/calibrate-padding.py AUDIO_DIR NOISE_DIR

AUDIO_DIR holds one recording a speaker. The speakers that scripts/lab/calibrate.sh holds out (of ten, the last three) are not
used; of every second of the others, three samples of 1.5 to 2 s enrol and pieces of the rest are tests, as they are and with
noise at 10 dB. Prints d' (distance of the means of same- and different-speaker cosines in standard
deviations), which still tells methods apart where the equal error rate is zero.
"""
import pathlib
import sys

import kaldi_native_fbank as knf
import numpy as np
import onnxruntime as ort
import soundfile as sf

MODELS = pathlib.Path(__file__).resolve().parents[2] / "models"
LENGTHS_S = [1.0, 1.5, 2.5, 4.0]


def session(name):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(MODELS / name), options)


VAD = session("silero_vad_16k.onnx")
CAMPPLUS = session("campplus_zh_en_192.f16.onnx")


def net_speech(x):
    state, context, keep = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), []
    for i in range(0, len(x) - 511, 512):
        chunk = np.concatenate([context, x[i:i + 512]])[None]
        p, state = VAD.run(None, {"input": chunk, "state": state})
        keep.append(p[0, 0] > 0.5)
        context = x[i + 448:i + 512]
    mask = np.repeat(keep, 512)
    return x[:len(mask)][mask]


def features(x):
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "povey"
    options.mel_opts.num_bins = 80
    options.energy_floor = 0.0
    computer = knf.OnlineFbank(options)
    computer.accept_waveform(16_000, (x * 32_768).tolist())
    computer.input_finished()
    f = np.array([computer.get_frame(i) for i in range(computer.num_frames_ready)], np.float32)
    return f - f.mean(0)


def unit(e):
    return e / np.linalg.norm(e)


def embed(f):
    return unit(CAMPPLUS.run(None, {"feats": f[None].astype(np.float32)})[0][0])


def fixed(f, plans, pad):
    for length in plans:
        if len(f) <= length:
            return embed(pad(f, length))
    length = plans[-1]
    count = int(np.ceil((len(f) - length) / length)) + 1
    starts = np.linspace(0, len(f) - length, count).round().astype(int)
    return unit(sum(embed(f[s:s + length]) for s in starts))


def mean_frame(f, length):
    return np.pad(f, ((0, length - len(f)), (0, 0)))


def wrap(f, length):
    return np.concatenate([f] * (-(-length // len(f))))[:length]


METHODS = {"exact length": embed}
for plans in [[300], [200, 300], [200, 400], [150, 300, 500]]:
    for pad in [mean_frame, wrap]:
        METHODS[f"{pad.__name__} {plans}"] = lambda f, plans=plans, pad=pad: fixed(f, plans, pad)

noises = [sf.read(p, dtype="float32")[0] for p in sorted(pathlib.Path(sys.argv[2]).glob("noise*.flac"))]
keys = [(s, noisy) for noisy in (False, True) for s in LENGTHS_S]
enrolled = {m: [] for m in METHODS}
tests = {m: {k: [] for k in keys} for m in METHODS}
paths = sorted(pathlib.Path(sys.argv[1]).glob("*.flac"))
for n, path in enumerate([path for i, path in enumerate(paths) if i % 10 < 7][::2]):
    x = net_speech(sf.read(path, dtype="float32")[0])
    if len(x) < 16_000 * 11:
        continue
    samples = [features(x[at:at + size]) for at, size in [(0, 24_000), (32_000, 32_000), (64_000, 29_000)]]
    rest = x[100_000:]
    noise = np.resize(noises[n % len(noises)], len(rest))
    noisy = rest + noise * np.sqrt((rest ** 2).mean() / (noise ** 2).mean() / 10)
    for name, method in METHODS.items():
        enrolled[name].append(unit(sum(method(f) for f in samples)))
        for s, with_noise in keys:
            sound = noisy if with_noise else rest
            tests[name][s, with_noise].append(method(features(sound[:int(s * 16_000)])))

print(len(enrolled["exact length"]), "speakers")
print("| method |", " | ".join(f"{s} s{', noise' if n else ''}" for s, n in keys), "|")
for name in METHODS:
    cells = []
    for key in keys:
        cosines = np.array(enrolled[name]) @ np.array(tests[name][key]).T
        same, other = np.diag(cosines), cosines[~np.eye(len(cosines), dtype=bool)]
        cells.append(f"{(same.mean() - other.mean()) / np.sqrt((same.var() + other.var()) / 2):.2f}")
    print(f"| {name} |", " | ".join(cells), "|")
