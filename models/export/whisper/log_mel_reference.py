#!/usr/bin/env python3
"""Writes the reference for the test of the log-mel spectrogram: daemon/src/stt/whisper/log_mel.reference.f32

Needs numpy and the Python package faster-whisper (tested: 1.2.1, installed with --no-deps), whose FeatureExtractor is
the reference; a second implementation below, straight from openai/whisper `audio.py`, must agree with it.

Content: the features of `signal()`, row by row ([80, 100]), as little-endian f32.
"""

import importlib.util
import pathlib
import sys

import numpy as np


def signal():
    """1 s: a rising tone, a burst of noise from a fixed generator, silence at the end. The test makes the same."""
    state, noise = 1, np.empty(16000, np.float64)
    for i in range(16000):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        noise[i] = (state >> 8) / (1 << 23) - 1.0
    t = np.arange(16000, dtype=np.float64) / 16000.0
    tone = 0.5 * np.sin(2.0 * np.pi * (200.0 * t + 1500.0 * t * t))
    burst = np.where((t >= 0.5) & (t < 0.6), 0.2 * noise, 0.0)
    return np.where(t < 0.8, tone + burst, 0.0).astype(np.float32)


def by_definition(x):
    def mel_to_hz(m):
        return m * 200 / 3 if m < 15 else 1000 * np.exp((m - 15) * np.log(6.4) / 27)

    hz = np.array([mel_to_hz(m) for m in np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 82)])
    bins = np.arange(201) * 40.0
    up = (bins[None] - hz[:-2, None]) / (hz[1:-1] - hz[:-2])[:, None]
    down = (hz[2:, None] - bins[None]) / (hz[2:] - hz[1:-1])[:, None]
    filters = np.maximum(0, np.minimum(up, down)) * (2 / (hz[2:] - hz[:-2]))[:, None]
    padded = np.pad(np.pad(x.astype(np.float64), (0, 160)), 200, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.stack([padded[i * 160 : i * 160 + 400] * window for i in range(len(x) // 160)])
    power = np.abs(np.fft.rfft(frames)).T ** 2
    log = np.log10(np.maximum(filters @ power, 1e-10))
    return (np.maximum(log, log.max() - 8) + 4) / 4


def main():
    # The module alone: the package would import its inference engine.
    package = pathlib.Path(importlib.util.find_spec("faster_whisper").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("feature_extractor", package / "feature_extractor.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reference = module.FeatureExtractor(feature_size=80)(signal())[:, :100]
    other = by_definition(signal())
    difference = np.abs(reference - other).max()
    print("shape", reference.shape, "largest difference of the two implementations", difference)
    if reference.shape != (80, 100) or difference > 1e-4:
        sys.exit("the two implementations do not agree")
    root = pathlib.Path(__file__).resolve().parents[3]
    reference.astype("<f4").tofile(root / "daemon/src/stt/whisper/log_mel.reference.f32")


if __name__ == "__main__":
    main()
