#!/usr/bin/env python3
"""Whisper tiny.en, CTranslate2 format → an encoder and a one-step decoder in ONNX, a table of token embeddings, a
vocabulary and a suppress list.

Usage: convert.py MODEL_DIR OUT_DIR        (MODEL_DIR holds model.bin, vocabulary.txt and config.json)

Standard library only; the result is the same, byte for byte, on every machine.

encoder   mel f32 [1, 80, 2T] → ck0 cv0 … ck3 cv3 f32 [1, 6, T, 64]: the decoder's cross-attention keys and values of
          each layer, which do not change from token to token, so they are computed once, here.
decoder   one token a step: embedding f32 [1, 1, 384] of the token; pos i64 [1, 1]; sk0 sv0 … sk3 sv3 f32 [1, 6, P, 64],
          the keys and values of the P tokens before; ck… cv… of the encoder → hidden f32 [1, 384]; nk0 nv0 … nk3 nv3
          f32 [1, 6, 1, 64], what this token adds to the cache.
embedding the table that turns a token into numbers at one end of the decoder and, at the other end, `hidden` into the
          scores of all 51864 tokens. It is two thirds of the model, and reading it is most of the work of a step, so it
          stays outside the graph as 8-bit integers: i8 [51864, 384] row by row, then a scale f32 for each row, then one
          for each column; a value is integer · scale of its row · scale of its column. (A few columns are up to 60 times
          as large as the others; without scales of their own they would take the precision of all: 3 % error, not 0.8 %.)

Weights in the graphs stay in half precision and are widened by a Cast when the model is loaded. The scale 1/sqrt(64) of the
attention is folded into the query weights (a power of two: exact up to half precision's smallest numbers).
"""

import array
import json
import math
import os
import struct
import sys

import ctranslate2
from onnx_writer import FLOAT, FLOAT16, INT64, Graph

LAYERS, HEADS, WIDTH = 4, 6, 384
HEAD_WIDTH = WIDTH // HEADS
QUERY_SCALE = 0.125
# The first token that is not text (end of text) in the English-only vocabulary.
FIRST_SPECIAL = 50256


def transposed(raw, rows, columns):
    half = array.array("H", raw)
    out = array.array("H")
    for column in range(columns):
        out.extend(half[column::columns])
    assert len(out) == rows * columns
    return out.tobytes()


def scaled(raw, factor):
    letters = "<%de" % (len(raw) // 2)
    return struct.pack(letters, *(value * factor for value in struct.unpack(letters, raw)))


class Network(Graph):
    """A graph over the weights of the source model, in the terms of a transformer."""

    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def widened(self, name, dims, raw):
        """A half-precision constant as f32."""
        self.constant(name, FLOAT16, dims, raw)
        return self.node_once("Cast", [name], name + ":f32", to=FLOAT)

    def weight(self, key):
        variable = self.weights[key]
        return self.widened(key, variable.dims, variable.raw)

    def linear(self, x, key, part=None, scale=None):
        """x · Wᵀ + b. `part` (name, n) takes the n-th block of WIDTH rows of a fused projection."""
        rows, columns = self.weights[key + "/weight"].dims
        weight, bias = self.weights[key + "/weight"].raw, self.weights[key + "/bias"].raw
        if part:
            key, block, rows = key + "/" + part[0], part[1], WIDTH
            weight = weight[block * WIDTH * columns * 2 :][: WIDTH * columns * 2]
            bias = bias[block * WIDTH * 2 :][: WIDTH * 2]
        if scale:
            weight, bias = scaled(weight, scale), scaled(bias, scale)
        y = self.node(
            "MatMul", [x, self.widened(key + "/weight", [columns, rows], transposed(weight, rows, columns))]
        )
        # The keys have no bias in Whisper: the file holds zeros.
        return self.node("Add", [y, self.widened(key + "/bias", [rows], bias)]) if any(bias) else y

    def norm(self, x, key):
        scale, shift = self.weight(key + "/gamma"), self.weight(key + "/beta")
        return self.node("LayerNormalization", [x, scale, shift], axis=-1, epsilon=1e-5)

    def gelu(self, x):
        return self.node("Gelu", [x], approximate="none")

    def add(self, a, b):
        return self.node("Add", [a, b])

    def to_heads(self, x):
        shape = self.integers("shape/heads", [1, -1, HEADS, HEAD_WIDTH])
        return self.node("Transpose", [self.node("Reshape", [x, shape])], perm=[0, 2, 1, 3])

    def attention(self, query, keys, values):
        scores = self.node("MatMul", [query, self.node("Transpose", [keys], perm=[0, 1, 3, 2])])
        mixed = self.node("MatMul", [self.node("Softmax", [scores], axis=-1), values])
        flat = self.integers("shape/flat", [1, -1, WIDTH])
        return self.node("Reshape", [self.node("Transpose", [mixed], perm=[0, 2, 1, 3]), flat])

    def query_key_value(self, x, key):
        parts = [("q", 0, QUERY_SCALE), ("k", 1, None), ("v", 2, None)]
        return [self.to_heads(self.linear(x, key, (name, n), scale)) for name, n, scale in parts]

    def feed_forward(self, x, key):
        y = self.linear(self.norm(x, key + "/layer_norm"), key + "/linear_0")
        return self.add(x, self.linear(self.gelu(y), key + "/linear_1"))


def encoder(weights, path):
    net = Network(weights)
    net.input("mel", FLOAT, [1, 80, "2*T"])
    x = "mel"
    for key, stride in (("encoder/conv1", 1), ("encoder/conv2", 2)):
        kernel = [x, net.weight(key + "/weight"), net.weight(key + "/bias")]
        x = net.gelu(net.node("Conv", kernel, kernel_shape=[3], pads=[1, 1], strides=[stride]))
    x = net.node("Transpose", [x], perm=[0, 2, 1])
    frames = net.node("Slice", [
        net.node("Shape", [x]), net.integers("one", [1]), net.integers("two", [2]), net.integers("zero", [0]),
    ])
    table = weights["encoder/position_encodings/encodings"]
    positions = net.widened("encoder/positions", (1, *table.dims), table.raw)
    x = net.add(x, net.node("Slice", [positions, "zero", frames, "one"]))
    for layer in range(LAYERS):
        key = "encoder/layer_%d" % layer
        y = net.norm(x, key + "/self_attention/layer_norm")
        mixed = net.attention(*net.query_key_value(y, key + "/self_attention/linear_0"))
        x = net.add(x, net.linear(mixed, key + "/self_attention/linear_1"))
        x = net.feed_forward(x, key + "/ffn")
    x = net.norm(x, "encoder/layer_norm")
    for layer in range(LAYERS):
        key = "decoder/layer_%d/attention/linear_1" % layer
        for n, name in enumerate("kv"):
            output = "c%s%d" % (name, layer)
            net.node("Identity", [net.to_heads(net.linear(x, key, (name, n)))], output)
            net.output(output, FLOAT, [1, HEADS, "T", HEAD_WIDTH])
    net.save(path, "whisper-tiny-en-encoder")


def decoder(weights, path):
    net = Network(weights)
    net.input("embedding", FLOAT, [1, 1, WIDTH])
    net.input("pos", INT64, [1, 1])
    for kind, length in (("s", "P"), ("c", "T")):
        for layer in range(LAYERS):
            for name in "kv":
                net.input("%s%s%d" % (kind, name, layer), FLOAT, [1, HEADS, length, HEAD_WIDTH])
    table = "decoder/position_encodings/encodings"
    # The row is widened after the look-up: one row a token instead of the whole table.
    net.constant(table, FLOAT16, weights[table].dims, weights[table].raw)
    x = net.add("embedding", net.node("Cast", [net.node("Gather", [table, "pos"], axis=0)], to=FLOAT))
    added = []
    for layer in range(LAYERS):
        key = "decoder/layer_%d" % layer
        y = net.norm(x, key + "/self_attention/layer_norm")
        query, new_key, new_value = net.query_key_value(y, key + "/self_attention/linear_0")
        added += [(new_key, "nk%d" % layer), (new_value, "nv%d" % layer)]
        keys = net.node("Concat", ["sk%d" % layer, new_key], axis=2)
        values = net.node("Concat", ["sv%d" % layer, new_value], axis=2)
        x = net.add(x, net.linear(net.attention(query, keys, values), key + "/self_attention/linear_1"))
        y = net.norm(x, key + "/attention/layer_norm")
        query = net.to_heads(net.linear(y, key + "/attention/linear_0", scale=QUERY_SCALE))
        mixed = net.attention(query, "ck%d" % layer, "cv%d" % layer)
        x = net.add(x, net.linear(mixed, key + "/attention/linear_2"))
        x = net.feed_forward(x, key + "/ffn")
    shape = net.integers("shape/row", [1, WIDTH])
    net.node("Reshape", [net.norm(x, "decoder/layer_norm"), shape], "hidden")
    net.output("hidden", FLOAT, [1, WIDTH])
    for value, name in added:
        net.node("Identity", [value], name)
        net.output(name, FLOAT, [1, HEADS, 1, HEAD_WIDTH])
    net.save(path, "whisper-tiny-en-decoder")


def embedding(weights, path):
    table = weights["decoder/embeddings/weight"]
    rows, width = table.dims

    def row_of(index):
        return struct.unpack_from("<%de" % width, table.raw, index * width * 2)

    # The root mean square of each column, of every 16th row, as a power of two: dividing by it is exact.
    squares = [0.0] * width
    for row in range(0, rows, 16):
        squares = [total + value * value for total, value in zip(squares, row_of(row))]
    columns = [2.0 ** math.frexp(math.sqrt(total * 16 / rows))[1] for total in squares]
    scales = array.array("f")
    with open(path, "wb") as file:
        for row in range(rows):
            values = [value / column for value, column in zip(row_of(row), columns)]
            largest = max(map(abs, values)) or 1.0
            factor = 127.0 / largest
            file.write(array.array("b", [round(value * factor) for value in values]).tobytes())
            scales.append(largest / 127.0)
        file.write(scales.tobytes())
        file.write(array.array("f", columns).tobytes())


def byte_of_letter():
    """GPT-2 writes each byte as one printable letter: itself where it is printable, else the next free one from 256."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(byte): byte for byte in printable}
    hidden = (byte for byte in range(256) if byte not in printable)
    letters.update((chr(256 + n), byte) for n, byte in enumerate(hidden))
    return letters


def vocabulary(source, path):
    """One entry a token: u8 length, then the bytes that the token stands for (none for special tokens)."""
    letters = byte_of_letter()
    with open(source, encoding="utf-8", newline="\n") as lines, open(path, "wb") as file:
        for token, line in enumerate(lines):
            text = bytes(letters[c] for c in line.rstrip("\n")) if token < FIRST_SPECIAL else b""
            file.write(bytes([len(text)]) + text)


def suppress(source, path):
    """The tokens that are never chosen (signs of music, sound descriptions, …), one number a line."""
    with open(source, encoding="utf-8") as file:
        tokens = sorted(set(json.load(file)["suppress_ids"]))
    with open(path, "w", encoding="ascii") as file:
        file.write("".join("%d\n" % token for token in tokens))


def main(source, target):
    if sys.byteorder != "little":
        raise SystemExit("convert.py: only little-endian machines are supported")
    name, revision, weights = ctranslate2.load(os.path.join(source, "model.bin"))
    if (name, revision) != ("WhisperSpec", 3):
        raise SystemExit("convert.py: expected WhisperSpec revision 3, found %s %d" % (name, revision))
    os.makedirs(target, exist_ok=True)
    encoder(weights, os.path.join(target, "whisper_tiny_en_encoder.f16.onnx"))
    decoder(weights, os.path.join(target, "whisper_tiny_en_decoder.f16.onnx"))
    embedding(weights, os.path.join(target, "whisper_tiny_en_embedding.i8.bin"))
    vocabulary(os.path.join(source, "vocabulary.txt"), os.path.join(target, "whisper_tiny_en_vocabulary.bin"))
    suppress(os.path.join(source, "config.json"), os.path.join(target, "whisper_tiny_en_suppress.txt"))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: convert.py MODEL_DIR OUT_DIR")
    main(sys.argv[1], sys.argv[2])
