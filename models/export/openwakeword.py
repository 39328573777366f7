#!/usr/bin/env python3
"""Makes oww_melspectrogram.onnx and oww_embedding.onnx from the Python package openwakeword 0.5.1 (Apache-2.0 both: its
own code, and Google's speech embedding), byte for byte.

Usage: openwakeword.py openwakeword-0.5.1-py3-none-any.whl OUT_DIR
       (pip download --no-deps openwakeword==0.5.1; needs onnx)

Two changes: shapes written by the exporters are removed, and the batch is 1. The wake-word heads of the package are
under another licence (CC BY-NC-SA 4.0) and are not made here: scripts/fetch-models.sh fetches the one in use.
"""

import os
import sys

from graph_tools import member, save, with_input, without_shapes

MODELS = [
    ("melspectrogram", "oww_melspectrogram", [1, "samples"],
     "892d5d7affd4d01c061b7ca62e0acda2f568cc69b940bc72b354ef8f72dd2115"),
    ("embedding_model", "oww_embedding", [1, 76, 32, 1],
     "45c1e8ab08ad3f983dc028ac8708f5ba74ce8faa1408e9699a4ee711b7b4900c"),
]

if __name__ == "__main__":
    wheel, folder = sys.argv[1:]
    for source, name, dims, sha256 in MODELS:
        model = without_shapes(member(wheel, "openwakeword/resources/models/%s.onnx" % source))
        save(with_input(model, dims), os.path.join(folder, name + ".onnx"), sha256)
