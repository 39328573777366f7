#!/usr/bin/env python3
"""Draws a reliability diagram: what the confidence promises against what is true.

    scripts/lab/reliability.py SCORES.csv > reliability.svg

SCORES.csv is what `jarvisd voice score --trials LIST --out SCORES.csv` writes; the columns `label` (1 same speaker, 0 another)
and `confidence` are used, and rows without a confidence are left out. Both classes weigh the same, because the confidence is
the probability at equal priors. A point is a tenth of the scale that holds trials: its mean confidence, and the share of
same-speaker trials in it; the bars tell how much of the weight lies there. Nothing but Python is needed.
"""

import csv
import sys

BINS = 10
SIZE, LEFT, TOP, BARS = 360, 56, 16, 60


def trials(path):
    """(same speaker, confidence) of every row that has one."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if rows.fieldnames is None or not {"label", "confidence"} <= set(rows.fieldnames):
            sys.exit(f"{path} has no columns `label` and `confidence`; make it with `jarvisd voice score --out`")
        for line, row in enumerate(rows, 2):
            if not row["confidence"]:
                continue
            try:
                same, confidence = {"0": 0, "1": 1}[row["label"]], float(row["confidence"])
            except (KeyError, TypeError, ValueError):
                sys.exit(f"{path}:{line} is not a trial")
            if not 0 <= confidence <= 1:
                sys.exit(f"{path}:{line} has a confidence that is no probability")
            yield same, confidence


def bins(found):
    """(mean confidence, share of same-speaker trials, share of the weight) of each tenth that holds trials, and the ECE."""
    count = [sum(1 for same, _ in found if same == label) for label in (0, 1)]
    if 0 in count:
        sys.exit("there must be trials of both kinds: same speaker and different speakers")
    weight = [0.5 / n for n in count]
    sums = [[0.0, 0.0, 0.0] for _ in range(BINS)]
    for same, confidence in found:
        held = sums[min(int(confidence * BINS), BINS - 1)]
        held[0] += weight[same]
        held[1] += weight[same] * confidence
        held[2] += weight[same] * same
    points = [(c / w, s / w, w) for w, c, s in sums if w > 0]
    return points, sum(w * abs(c - s) for c, s, w in points)


def svg(points, ece, found):
    """The diagram as one SVG image."""
    def x(value):
        return LEFT + value * SIZE

    def y(value):
        return TOP + (1 - value) * SIZE

    base = TOP + SIZE + 24 + BARS
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + SIZE + 20} {base + 40}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<rect x="{LEFT}" y="{TOP}" width="{SIZE}" height="{SIZE}" fill="none" stroke="#888"/>',
        f'<line x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}" stroke="#888" stroke-dasharray="4 4"/>',
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>')
        parts.append(f'<text x="{x(tick)}" y="{base + 16}" text-anchor="middle">{tick:g}</text>')
    line = " ".join(f"{x(c):.1f},{y(s):.1f}" for c, s, _ in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1667b0" stroke-width="1.5"/>')
    for confidence, share, weight in points:
        parts.append(f'<circle cx="{x(confidence):.1f}" cy="{y(share):.1f}" r="4" fill="#1667b0"/>')
        left, height = x(min(int(confidence * BINS), BINS - 1) / BINS), max(1.0, weight * BARS)
        parts.append(
            f'<rect x="{left + 1:.1f}" y="{base - height:.1f}" width="{SIZE / BINS - 2:.1f}" height="{height:.1f}" '
            'fill="#9cc3e6"/>'
        )
    same = sum(label for label, _ in found)
    parts += [
        f'<line x1="{LEFT}" y1="{base}" x2="{LEFT + SIZE}" y2="{base}" stroke="#888"/>',
        f'<text x="{LEFT + SIZE / 2}" y="{base + 34}" text-anchor="middle">confidence</text>',
        f'<text transform="translate(14 {TOP + SIZE / 2}) rotate(-90)" text-anchor="middle">share that is the same speaker</text>',
        f'<text x="{LEFT + 12}" y="{TOP + 22}">{same} same, {len(found) - same} different, ECE {ece:.3f}</text>',
        "</svg>",
    ]
    return "\n".join(parts)


def main():
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    found = list(trials(sys.argv[1]))
    points, ece = bins(found)
    print(svg(points, ece, found))


if __name__ == "__main__":
    main()
