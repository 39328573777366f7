#!/usr/bin/env python3
"""Prints the licences of what is linked into jarvisd for a target, with their texts, each text once.

usage: scripts/crate-licences.py TARGET

Most licences ask for their text and the names of the authors to go with every copy of a program. The texts
are those that the crates bring; a crate without one is named with its licence and its address.
"""
import json
import pathlib
import re
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
TEXT = re.compile(r"(licen[cs]e|copying|notice|copyright|unlicense)", re.IGNORECASE)


def linked(metadata):
    """The packages that the program needs when it runs, without itself, by name."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    start = next(p["id"] for p in metadata["packages"] if p["name"] == "jarvisd")
    found, waiting = set(), [start]
    while waiting:
        for dependency in nodes[waiting.pop()]["deps"]:
            normal = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if normal and dependency["pkg"] not in found:
                found.add(dependency["pkg"])
                waiting.append(dependency["pkg"])
    packages = [p for p in metadata["packages"] if p["id"] in found]
    return sorted(packages, key=lambda p: (p["name"], p["version"]))


def texts(package):
    folder = pathlib.Path(package["manifest_path"]).parent
    for path in sorted(folder.iterdir()):
        if path.is_file() and TEXT.match(path.name) and path.suffix not in (".rs", ".html"):
            yield path.read_text(errors="replace").strip()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip())
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", sys.argv[1]]
    metadata = json.loads(subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE).stdout)
    packages = linked(metadata)
    owners = {}
    print("jarvisd is linked from these packages of Rust, each under the licence that is named.\n")
    for package in packages:
        name = f"{package['name']} {package['version']}"
        known = [owners.setdefault(" ".join(text.split()), (text, [])) for text in texts(package)]
        for _, names in known:
            names.append(name)
        address = "" if known else f", {package['repository'] or 'no address'}"
        print(f"{name}: {package['license'] or 'see its text'}{address}")
    for text, names in owners.values():
        print("\n" + "-" * 72 + f"\n{', '.join(names)}\n\n{text}")


if __name__ == "__main__":
    main()
