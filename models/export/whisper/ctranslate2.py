"""Reads a CTranslate2 `model.bin`, binary version 4 to 6, with nothing but the standard library.

Layout (little endian): u32 version, string model name, u32 revision, u32 count, then per variable: string name,
u8 rank, u32 per dimension, u8 element type, u32 bytes, content; then u32 count of aliases as pairs of strings.
A string is u16 length including its closing zero, then the text.
"""

import struct
from typing import NamedTuple

# Index in this list = element type in the file: letter of the `struct` module and a readable name.
ELEMENTS = [("f", "f32"), ("b", "i8"), ("h", "i16"), ("i", "i32"), ("e", "f16"), ("H", "bf16")]


class Variable(NamedTuple):
    element: str
    dims: tuple
    raw: bytes


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, letter):
        (value,) = struct.unpack_from("<" + letter, self.data, self.at)
        self.at += struct.calcsize("<" + letter)
        return value

    def take(self, count):
        if count > len(self.data) - self.at:
            raise ValueError("model.bin ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def text(self):
        raw = self.take(self.number("H"))
        if raw[-1:] != b"\0":
            raise ValueError("model.bin: a name is not closed")
        return raw[:-1].decode("utf-8")


def load(path):
    """Returns (name, revision, {variable name: Variable}); aliases are not needed here."""
    with open(path, "rb") as file:
        reader = Reader(file.read())
    version = reader.number("I")
    if not 4 <= version <= 6:
        raise ValueError("model.bin has binary version %d, known are 4 to 6" % version)
    name, revision = reader.text(), reader.number("I")
    variables = {}
    for _ in range(reader.number("I")):
        key = reader.text()
        dims = tuple(reader.number("I") for _ in range(reader.number("B")))
        element = ELEMENTS[reader.number("B")][1]
        variables[key] = Variable(element, dims, reader.take(reader.number("I")))
    for _ in range(reader.number("I")):
        reader.text()
        reader.text()
    if reader.at != len(reader.data):
        raise ValueError("model.bin has %d bytes too many" % (len(reader.data) - reader.at))
    return name, revision, variables
