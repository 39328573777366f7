#!/usr/bin/env python3
"""Makes the streaming form of openWakeWord's embedding model.

usage: oww_embedding_stream.py embedding_model.onnx oww_embedding_stream.onnx        (needs: pip install onnx numpy)

The input is openwakeword/resources/models/embedding_model.onnx of the Python package openwakeword 0.5.1 (Apache-2.0).

The network has no padding along time: it is a stack of convolutions of three mel frames and of poolings by two, and one
embedding sees 76 frames. Consecutive embeddings start 8 frames apart, so nine tenths of the work repeats. Here each
layer keeps the last rows of its input as explicit state instead:

    mel    f32 [1,8,32,1]     the 8 newest mel frames, x/10 + 2
    c0..cN f32 [1,ch,rows,w]  in: state, out: state of the next step (`c0_next`..)
    ->     f32 [1,96,1,1]     the embedding of the 76 frames that end 0 frames ago, once 10 steps have been fed

76 = 9 * 8 + 4: a window ends in the middle of a step counted from frame 0, so the stream starts with 4 frames of
anything in front; step s then takes frames 8s-4 .. 8s+3 and gives the window that starts at frame 8(s-9). The last
pooling needs no state then, because every pair of rows falls into one step.
"""
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STEP, BINS = 8, 32


def ints(node, name, default):
    return next((list(a.ints) for a in node.attribute if a.name == name), default)


def main(source, target):
    model = onnx.load(source)
    graph = model.graph
    consts = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            consts[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    nodes, inputs, outputs, keep = [], [], [], {}
    inputs.append(helper.make_tensor_value_info("mel", TensorProto.FLOAT, [1, STEP, BINS, 1]))
    keep["to_nchw"] = np.array([1, 1, STEP, BINS], dtype=np.int64)
    nodes.append(helper.make_node("Reshape", ["mel", "to_nchw"], ["x0"], name="n_in"))
    value, channels, rows, width, states = "x0", 1, STEP, BINS, 0
    for index, node in enumerate(graph.node):
        out = f"x{index + 1}"
        if node.op_type in ("Reshape", "Transpose", "Constant", "Identity"):
            continue
        name = f"n{index}"
        if node.op_type == "Conv":
            weight = consts[node.input[1]]
            kernel, pads = list(weight.shape[2:]), ints(node, "pads", [0, 0, 0, 0])
            assert pads[0] == pads[2] == 0 and ints(node, "strides", [1, 1]) == [1, 1]
            if kernel[0] > 1:  # keep the last kernel-1 rows
                past, joined, late = f"c{states}", f"j{states}", kernel[0] - 1
                inputs.append(helper.make_tensor_value_info(past, TensorProto.FLOAT, [1, channels, late, width]))
                nodes.append(helper.make_node("Concat", [past, value], [joined], axis=2, name=f"{name}_join"))
                for key, number in (("from", rows), ("to", rows + late), ("axis", 2)):
                    keep[f"s{states}_{key}"] = np.array([number], dtype=np.int64)
                slots = [f"s{states}_{key}" for key in ("from", "to", "axis")]
                nodes.append(helper.make_node("Slice", [joined, *slots], [past + "_next"], name=f"{name}_keep"))
                outputs.append(helper.make_tensor_value_info(past + "_next", TensorProto.FLOAT, [1, channels, late, width]))
                value, states = joined, states + 1
            wires = [value]
            for k, which in enumerate(node.input[1:]):
                keep[f"w{index}_{k}"] = consts[which]
                wires.append(f"w{index}_{k}")
            nodes.append(helper.make_node("Conv", wires, [out], kernel_shape=kernel, pads=pads, strides=[1, 1], name=name))
            channels, width = weight.shape[0], width + pads[1] + pads[3] - kernel[1] + 1
        elif node.op_type == "MaxPool":
            kernel, strides = ints(node, "kernel_shape", None), ints(node, "strides", None)
            assert kernel == strides and rows % kernel[0] == 0
            nodes.append(helper.make_node("MaxPool", [value], [out], kernel_shape=kernel, strides=strides, name=name))
            rows, width = rows // kernel[0], width // kernel[1]
        elif node.op_type == "LeakyRelu":
            alpha = next(a.f for a in node.attribute if a.name == "alpha")
            nodes.append(helper.make_node("LeakyRelu", [value], [out], alpha=alpha, name=name))
        elif node.op_type == "Max":
            keep[f"w{index}"] = consts[next(i for i in node.input if i in consts)]
            nodes.append(helper.make_node("Max", [value, f"w{index}"], [out], name=name))
        else:
            sys.exit(f"unexpected operator {node.op_type}")
        value = out
    assert (rows, width) == (1, 1), (rows, width)
    outputs.insert(0, helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, channels, 1, 1]))
    made = helper.make_graph(nodes, "oww_embedding_stream", inputs, outputs,
                             [numpy_helper.from_array(v, k) for k, v in keep.items()])
    opset = [o for o in model.opset_import if o.domain in ("", "ai.onnx")]
    made = helper.make_model(made, opset_imports=opset, producer_name="jarvis", ir_version=8)
    onnx.checker.check_model(made)
    with open(target, "wb") as file:
        file.write(made.SerializeToString(deterministic=True))
    print(f"{target}: {states} states")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
