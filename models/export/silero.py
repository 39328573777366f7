#!/usr/bin/env python3
"""Makes silero_vad_16k.onnx from the Python package silero-vad 6.2.3 (MIT), byte for byte.

Usage: silero.py silero_vad-6.2.3-py3-none-any.whl OUT.onnx     (pip download --no-deps silero-vad==6.2.3; needs onnx)

The package's `silero_vad_openvino_16k.onnx` holds the 16 kHz branch alone, without the If nodes of the other files, which
tract cannot load. The only change: shapes written by its exporter are removed.
"""

import sys

from graph_tools import member, save, without_shapes

SHA256 = "d61e0ed3309164b26702263b24190327cf322f94862220e690259d97d3bc4e0f"

if __name__ == "__main__":
    wheel, out = sys.argv[1:]
    save(without_shapes(member(wheel, "silero_vad/data/silero_vad_openvino_16k.onnx")), out, SHA256)
