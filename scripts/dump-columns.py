#!/usr/bin/env python3
"""Puts lines of tab-separated fields in columns, and back, as the database of a backup of format 2 is laid out.

Usage: scripts/dump-columns.py < DUMP > COLUMNS
       scripts/dump-columns.py --back < COLUMNS > DUMP

A backup of Postgres is read without jarvisd by
  zstd -d < database.zst | scripts/dump-columns.py --back | pg_restore --file=-
after `age --decrypt` if it is encrypted. daemon/src/backup/columns.rs describes the layout.
"""

import re
import struct
import sys

COLUMNS = 24
BLOCK_BYTES = 2 << 20
HEADER = struct.Struct(f"<{1 + COLUMNS}I")
FIELD = re.compile(rb"[^\t\n]*[\t\n]?")
LINE = re.compile(rb"[^\n]*\n|[^\n]+")
LAST = re.compile(rb"[^\n]*\n?")


def there(source, sink):
    while block := source.read(BLOCK_BYTES):
        columns = [[] for _ in range(COLUMNS)]
        for line in LINE.findall(block):
            fields = line.split(b"\t", COLUMNS - 1)
            for field, column in zip(fields[:-1], columns):
                column.append(field + b"\t")
            columns[len(fields) - 1].append(fields[-1])
        columns = [b"".join(column) for column in columns]
        sink.write(HEADER.pack(len(block), *map(len, columns)) + b"".join(columns))


def back(source, sink):
    while header := source.read(HEADER.size):
        size, *lengths = HEADER.unpack(header)
        columns = [source.read(length) for length in lengths]
        places, lines, length, at = [0] * COLUMNS, [], 0, 0
        while length < size:
            field = (FIELD if at + 1 < COLUMNS else LAST).match(columns[at], places[at])[0]
            if not field:
                sys.exit("a block contradicts itself")
            places[at] += len(field)
            length += len(field)
            lines.append(field)
            at = at + 1 if field.endswith(b"\t") and at + 1 < COLUMNS else 0
        sink.write(b"".join(lines))


if sys.argv[1:] not in ([], ["--back"]):
    sys.exit(__doc__)
(back if sys.argv[1:] else there)(sys.stdin.buffer, sys.stdout.buffer)
