#!/usr/bin/env python3
"""CPU of always-on detection beside its peer: the Python package openwakeword with its Silero VAD, one thread.

    pip install --no-deps openwakeword==0.5.1
    pip install numpy onnxruntime scipy scikit-learn tqdm requests
    scripts/lab/compare-detection.py path/to/jarvisd [--root DIR]

Both get the same sounds, one after the other: a quiet room and a noisy one. The peer runs mel, embedding, "hey jarvis" and VAD on
16 kHz sound. `jarvisd listen` gets 48 kHz and does resampling and denoising as well, so the ratio is against us. What starting
costs is removed by taking the difference of a long and a short recording.
"""
import argparse
import pathlib
import resource
import subprocess
import tempfile
import time
import wave

import numpy as np

SHORT_S, LONG_S = 20, 140
LEVELS = {"quiet room (-56 dB)": 0.0015, "noisy room (-36 dB)": 0.015}


def write(path, rate_hz, seconds, level):
    """Brown-ish noise, as a fan or a street makes it: RMS `level` of full scale."""
    rng = np.random.default_rng(7)
    white = rng.standard_normal(rate_hz * seconds)
    spectrum = np.fft.rfft(white)
    spectrum /= np.maximum(1.0, np.sqrt(np.arange(spectrum.size) * rate_hz / white.size / 100.0))
    sound = np.fft.irfft(spectrum, white.size)
    sound *= level / np.sqrt(np.mean(sound**2))
    pcm = (np.clip(sound, -1, 1) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(pcm.tobytes())
    return pcm


def ours(command, recording):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, "listen", str(recording)], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peer(pcm):
    import onnxruntime
    import openwakeword

    folder = pathlib.Path(openwakeword.__file__).parent / "resources/models"
    onnxruntime.set_default_logger_severity(3)
    model = openwakeword.Model(
        wakeword_models=[str(folder / "hey_jarvis_v0.1.onnx")], inference_framework="onnx", vad_threshold=0.5
    )
    for chunk in range(0, 16_000 * 5, 1280):
        model.predict(pcm[chunk : chunk + 1280])
    start = time.process_time()
    for chunk in range(0, pcm.size - 1279, 1280):
        model.predict(pcm[chunk : chunk + 1280])
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jarvisd")
    parser.add_argument("--root", help="a root folder with a configuration")
    options = parser.parse_args()
    command = [options.jarvisd] + (["--root", options.root] if options.root else [])
    print("| sound | jarvisd, CPU ms/s | openwakeword + Silero, CPU ms/s | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work:
        for name, level in LEVELS.items():
            short, long = pathlib.Path(work, "short.wav"), pathlib.Path(work, "long.wav")
            write(short, 48_000, SHORT_S, level)
            write(long, 48_000, LONG_S, level)
            jarvis_ms = 1e3 * (ours(command, long) - ours(command, short)) / (LONG_S - SHORT_S)
            pcm = write(pathlib.Path(work, "peer.wav"), 16_000, LONG_S - SHORT_S, level)
            peer_ms = 1e3 * peer(pcm) / (LONG_S - SHORT_S)
            print(f"| {name} | {jarvis_ms:.1f} | {peer_ms:.1f} | {jarvis_ms / peer_ms:.2f} |")


if __name__ == "__main__":
    main()
