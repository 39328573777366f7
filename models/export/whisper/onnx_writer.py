"""Writes ONNX files with nothing but the standard library.

An ONNX file is one protocol-buffer message. The few message types that a plain graph needs are written here field by
field (numbers from onnx.proto3), so that the conversion runs on every machine that has Python, including 32-bit ARM
where no wheel of the onnx package exists, and gives the same bytes whatever is installed.
"""

import struct

FLOAT, INT64, FLOAT16 = 1, 7, 10


def _varint(value):
    out = bytearray()
    value &= (1 << 64) - 1
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field, value):
    return _varint(field << 3) + _varint(value)


def _bytes(field, value):
    if isinstance(value, str):
        value = value.encode("utf-8")
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _attribute(name, value):
    """AttributeProto from a Python int, float, str or list of int."""
    body = _bytes(1, name)
    if isinstance(value, int):
        body, kind = body + _number(3, value), 2
    elif isinstance(value, float):
        body, kind = body + _varint(2 << 3 | 5) + struct.pack("<f", value), 1
    elif isinstance(value, str):
        body, kind = body + _bytes(4, value), 3
    else:
        body, kind = body + b"".join(_number(8, item) for item in value), 7
    return body + _number(20, kind)


def _value_info(name, element, dims):
    """ValueInfoProto; a dimension is a number or the name of a symbol."""
    shape = b"".join(_bytes(1, _bytes(2, d) if isinstance(d, str) else _number(1, d)) for d in dims)
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, element) + _bytes(2, shape)))


class Graph:
    """Collects nodes, constants, inputs and outputs in the order in which they are to run."""

    def __init__(self):
        self._nodes, self._constants, self._inputs, self._outputs = [], [], [], []
        self._known = set()
        self._count = 0

    def constant(self, name, element, dims, raw):
        """Adds a tensor once; `raw` is its little-endian content. Returns the name."""
        if name not in self._known:
            self._known.add(name)
            head = b"".join(_number(1, d) for d in dims)
            self._constants.append(head + _number(2, element) + _bytes(8, name) + _bytes(9, raw))
        return name

    def integers(self, name, values):
        """A one-dimensional INT64 constant."""
        return self.constant(name, INT64, [len(values)], struct.pack("<%dq" % len(values), *values))

    def node(self, kind, inputs, output=None, **attributes):
        """Adds a node with one output and returns that output's name (made up unless given)."""
        if output is None:
            self._count += 1
            output = "%s_%d" % (kind, self._count)
        body = b"".join(_bytes(1, name) for name in inputs) + _bytes(2, output)
        body += _bytes(3, output) + _bytes(4, kind)
        body += b"".join(_bytes(5, _attribute(k, v)) for k, v in sorted(attributes.items()))
        self._nodes.append(body)
        return output

    def node_once(self, kind, inputs, output, **attributes):
        """Like `node` with a given output, but only the first time that output is asked for."""
        if output not in self._known:
            self._known.add(output)
            self.node(kind, inputs, output, **attributes)
        return output

    def input(self, name, element, dims):
        self._inputs.append(_value_info(name, element, dims))

    def output(self, name, element, dims):
        self._outputs.append(_value_info(name, element, dims))

    def save(self, path, name, opset=20, ir_version=9):
        graph = b"".join(_bytes(1, n) for n in self._nodes) + _bytes(2, name)
        graph += b"".join(_bytes(5, c) for c in self._constants)
        graph += b"".join(_bytes(11, i) for i in self._inputs)
        graph += b"".join(_bytes(12, o) for o in self._outputs)
        model = _number(1, ir_version) + _bytes(2, "jarvis") + _bytes(7, graph)
        model += _bytes(8, _bytes(1, "") + _number(2, opset))
        with open(path, "wb") as file:
            file.write(model)
