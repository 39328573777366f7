#!/usr/bin/env python3
"""Records the results of the models, for `jarvisd models verify --run`.

usage: reference_results.py MODELS_FOLDER... reference.json              (needs: pip install onnxruntime numpy)

The folders hold the committed and the fetched models. Each network gets inputs that the program can make by
itself: numbers of one linear congruential generator, from -scale to scale. Recorded is every n-th number of one
output, as onnxruntime computes it. The file is pinned in manifest.toml by its SHA-256, which is printed.
"""
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

# Lengths that the exporter left open.
CONTEXT, PAST = 50, 4
OWW_STATE = [[1, 2, 32], [24, 2, 32], [48, 2, 16], [48, 2, 16], [72, 2, 8], [72, 2, 8],
             [96, 2, 4], [96, 2, 4], [96, 2, 2], [96, 2, 2], [96, 2, 1]]
# name, file, shapes and scales of the inputs, output, every n-th number of it
MODELS = [
    ("silero-vad", "silero_vad_16k.onnx", [([1, 576], 0.3), ([2, 1, 128], 0.5)], 1, 1),
    ("oww-melspectrogram", "oww_melspectrogram.onnx", [([1, 1760], 4000.0)], 0, 1),
    ("oww-embedding", "oww_embedding_stream.onnx",
     [([1, 8, 32, 1], 2.0)] + [([1, *shape], 2.0) for shape in OWW_STATE], 0, 1),
    ("hey-jarvis", "hey_jarvis_v0.1.onnx", [([1, 16, 96], 8.0)], 0, 1),
    ("campplus", "campplus_zh_en_192.f16.onnx", [([1, 200, 80], 2.0)], 0, 1),
    ("pyannote-segmentation", "pyannote_segmentation_3.onnx", [([1, 1, 16000], 0.3)], 0, 3),
    ("whisper-tiny-en-encoder", "whisper_tiny_en_encoder.f16.onnx", [([1, 80, 2 * CONTEXT], 1.0)], 0, 97),
    ("whisper-tiny-en-decoder", "whisper_tiny_en_decoder.f16.onnx",
     [([1, 1, 384], 0.1), PAST] + [([1, 6, PAST, 64], 1.0)] * 8 + [([1, 6, CONTEXT, 64], 1.0)] * 8, 0, 2),
]


def numbers(count, state):
    """As `Input::numbers` in daemon/src/inference/reference.rs, for the scale 1."""
    values = np.empty(count, np.float32)
    for index in range(count):
        state = (state * 1_664_525 + 1_013_904_223) & 0xFFFFFFFF
        values[index] = np.float32(state >> 16) / np.float32(32768.0) - np.float32(1.0)
    return values


def result(session, inputs, output):
    feed = {}
    for wanted, entry in zip(session.get_inputs(), inputs, strict=True):
        if "position" in entry:
            feed[wanted.name] = np.array([[entry["position"]]], np.int64)
        else:
            values = numbers(int(np.prod(entry["shape"])), entry["seed"]) * np.float32(entry["scale"])
            feed[wanted.name] = values.reshape(entry["shape"])
    return session.run(None, feed)[output].reshape(-1)


def recorded(folders, name, file, shapes, output, every):
    path = next(f / file for f in folders if (f / file).is_file())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for first in range(1, 2000):
        inputs = [
            {"position": shape} if isinstance(shape, int)
            else {"shape": shape[0], "scale": shape[1], "seed": 100 * first + index}
            for index, shape in enumerate(shapes)
        ]
        values = result(session, inputs, output)
        # One number alone says little where it is nearly 0 or 1.
        if len(values) > 1 or 0.2 < values[0] < 0.8:
            values = [float(f"{value:.7g}") for value in values[::every]]
            return {"model": name, "inputs": inputs, "output": output, "every": every, "results": values}
    raise SystemExit(f"{name}: no input gives a result in the middle")


folders, target = [Path(argument) for argument in sys.argv[1:-1]], Path(sys.argv[-1])
lines = ",\n".join(json.dumps(recorded(folders, *model)) for model in MODELS)
target.write_text(f"[\n{lines}\n]\n")
print(hashlib.sha256(target.read_bytes()).hexdigest(), target.stat().st_size)
