#!/usr/bin/env python3
"""CPU milliseconds of CAM++ in onnxruntime, one thread: the peer of `cargo run --example speaker_speed`.

    pip install numpy onnxruntime
"""
import pathlib
import statistics
import time

import numpy as np
import onnxruntime as ort

options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
model = pathlib.Path(__file__).parent.parent / "models/campplus_zh_en_192.f16.onnx"
session = ort.InferenceSession(str(model), options)
rng = np.random.default_rng(1)
for seconds in (1.0, 2.0, 3.0, 5.0):
    frames = 1 + (int(seconds * 16_000) - 400) // 160
    feats = rng.standard_normal((1, frames, 80)).astype(np.float32)
    times = []
    for _ in range(15):
        start = time.thread_time()
        session.run(None, {"feats": feats})
        times.append((time.thread_time() - start) * 1e3)
    print(f"{seconds} s: {statistics.median(times):.1f} ms (least {min(times):.1f})")
