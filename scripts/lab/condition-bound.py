#!/usr/bin/env python3
"""Bounds what the confidence could gain if it knew how noisy a recording is.

    scripts/lab/condition-bound.py SCORES.csv

SCORES.csv is what `scripts/lab/calibrate.sh DIR --scores SCORES.csv` writes: label, condition, net_speech_s, confidence of held-out
trials. For each condition a scale and an offset of the log odds are fitted on one half of its trials and applied to the other, and the
other way round: a confidence that is told the condition itself, which is more than any measure of noise could tell it. The same is done
with one scale and one offset for all of them, so that the difference is what the condition is worth. Cllr is in bits, at equal priors
(Brümmer and du Preez, 2006). Nothing but Python is needed.
"""

import csv
import math
import sys

ROUNDS = 60
RIDGE = 1e-3


def read(path):
    """(condition, same speaker, log odds) of every row."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not {"label", "condition", "confidence"} <= set(rows.fieldnames or []):
            sys.exit(f"{path} has no columns `label`, `condition` and `confidence`; make it with `scripts/lab/calibrate.sh DIR --scores {path}`")
        for row in rows:
            confidence = min(max(float(row["confidence"]), 1e-6), 1 - 1e-6)
            yield row["condition"], int(row["label"]), math.log(confidence / (1 - confidence))


def weights(trials):
    count = [max(1, sum(1 for _, same, _ in trials if same == label)) for label in (0, 1)]
    return [0.5 / count[0], 0.5 / count[1]]


def fit(trials):
    """Scale and offset of the log odds by Newton's method; both classes weigh the same, and little is left as it is."""
    scale, offset = 1.0, 0.0
    weight = weights(trials)
    for _ in range(ROUNDS):
        a, b = RIDGE * (scale - 1), RIDGE * offset
        aa, ab, bb = RIDGE, 0.0, RIDGE
        for _, same, x in trials:
            p = 1 / (1 + math.exp(-max(-30.0, min(30.0, scale * x + offset))))
            error, slope = weight[same] * (p - same), weight[same] * p * (1 - p)
            a, b = a + error * x, b + error
            aa, ab, bb = aa + slope * x * x, ab + slope * x, bb + slope
        det = aa * bb - ab * ab
        scale, offset = scale - (bb * a - ab * b) / det, offset - (aa * b - ab * a) / det
        if abs(a) + abs(b) < 1e-9:
            break
    return scale, offset


def cllr(trials):
    weight = weights(trials)
    cost = lambda same, x: math.log2(1 + math.exp(-x if same else x))
    return sum(weight[same] * cost(same, max(-60.0, min(60.0, x))) for _, same, x in trials)


def crossed(trials):
    """The trials with log odds that the other half was fitted for."""
    halves = [trials[0::2], trials[1::2]]
    for test, train in (halves, halves[::-1]):
        scale, offset = fit(train)
        yield from ((condition, same, scale * x + offset) for condition, same, x in test)


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    trials = list(read(sys.argv[1]))
    conditions = sorted({condition for condition, _, _ in trials})
    told = [t for condition in conditions for t in crossed([t for t in trials if t[0] == condition])]
    untold = list(crossed(trials))
    print(f"{'':14} {'trials':>7} {'as it is':>9} {'refitted':>9} {'told the condition':>19}")
    for condition in [*conditions, "all"]:
        of = lambda all_: [t for t in all_ if condition in ("all", t[0])]
        print(f"{condition:14} {len(of(trials)):7} {cllr(of(trials)):9.4f} {cllr(of(untold)):9.4f} {cllr(of(told)):19.4f}")


if __name__ == "__main__":
    main()
