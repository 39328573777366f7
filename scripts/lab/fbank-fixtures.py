#!/usr/bin/env python3
"""Writes tests/data/fbank/kaldi.json: rows of Kaldi's filter bank for signals that a formula makes.

Needs `pip install kaldi-native-fbank numpy`. The Rust test in daemon/src/speaker/fbank.rs makes the same signals.
"""
import json
import math
import pathlib

import kaldi_native_fbank as knf
import numpy as np


def signal(name: str, samples: int) -> np.ndarray:
    state = 12_345
    out = np.zeros(samples)
    for n in range(samples):
        t = n / 16_000.0

        def noise() -> float:
            nonlocal state
            state = (state * 1_664_525 + 1_013_904_223) & 0xFFFFFFFF
            return (state >> 8) / (1 << 24) - 0.5

        if name == "chirp_noise":
            value = 0.1 * math.sin(2.0 * math.pi * (50.0 * t + 3_500.0 * t * t)) + 0.2 * noise()
        elif name == "quiet_noise":
            value = 0.002 * noise() + 0.001
        elif name == "loud_noise":
            value = min(max(2.0 * noise(), -0.99), 0.99)
        else:
            value = 0.0
        # Round half away from zero, as Rust does.
        scaled = value * 32_768.0
        out[n] = math.floor(abs(scaled) + 0.5) * (1 if scaled >= 0 else -1)
    return out


def fbank(samples: np.ndarray) -> np.ndarray:
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = 16_000
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = "povey"
    options.frame_opts.snip_edges = True
    options.frame_opts.preemph_coeff = 0.97
    options.frame_opts.remove_dc_offset = True
    options.mel_opts.num_bins = 80
    options.mel_opts.low_freq = 20
    options.mel_opts.high_freq = 0
    options.energy_floor = 0.0
    computer = knf.OnlineFbank(options)
    computer.accept_waveform(16_000, samples.tolist())
    computer.input_finished()
    return np.array([computer.get_frame(i) for i in range(computer.num_frames_ready)])


fixtures = []
for name, samples in [("chirp_noise", 16_000), ("quiet_noise", 4_000), ("loud_noise", 4_000), ("silence", 1_000)]:
    features = fbank(signal(name, samples))
    rows = sorted({0, 1, len(features) // 2, len(features) - 1})
    fixtures.append({
        "signal": name,
        "samples": samples,
        "frames": len(features),
        "rows": [[row, [round(float(v), 5) for v in features[row]]] for row in rows],
    })
path = pathlib.Path(__file__).resolve().parents[2] / "tests/data/fbank/kaldi.json"
path.write_text(json.dumps(fixtures, separators=(",", ":")) + "\n")
