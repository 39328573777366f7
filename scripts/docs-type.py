#!/usr/bin/env python3
"""Runs a command of a shell at a terminal of its own and types the given lines at its questions, one after the other.

A line is typed when the command has asked and is quiet, or has said nothing for long; Ctrl-D comes after the last. The
exit code is the command's.
"""
import os
import pty
import select
import sys

QUIET_S = 0.7
# A password that is typed before it is asked for is thrown away.
LONG_S = 5.0


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__ + "\nUsage: scripts/docs-type.py COMMAND [LINE...]")
        return 0
    lines = [line.encode() + b"\n" for line in sys.argv[2:]] + [b"\x04"]
    child, terminal = pty.fork()
    if child == 0:
        os.execvp("bash", ["bash", "-c", sys.argv[1]])
    asked = False
    while True:
        ready, _, _ = select.select([terminal], [], [], QUIET_S if asked else LONG_S)
        if not ready:
            if lines:
                os.write(terminal, lines.pop(0))
            asked = False
            continue
        asked = True
        try:
            said = os.read(terminal, 4096)
        except OSError:
            break
        if not said:
            break
        os.write(1, said)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
