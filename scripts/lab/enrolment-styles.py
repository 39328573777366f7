#!/usr/bin/env python3
"""Measures further samples of an enrolment: far away, by a second microphone, loud, in a hurry (docs/lab/enrolment-styles.md).

    pip install kaldi-native-fbank numpy onnxruntime pyworld scipy soundfile
    scripts/lab/enrolment-styles.py AUDIO_DIR [--cache DIR] [--jobs N]

Readers, channels, embeddings and figures are those of scripts/lab/calibrate-channels.py; compensation and constants are the shipped
ones, nothing is fitted. The first 7 s of a recording enrol (three normal samples); a further sample is the same 7 s in the style
(its first 4 s net); the rest in that style tests, at 1.5 and 2 s net. Everybody shares the device and the room:

    base        clean (as recorded), S1 and S3 (two rooms, each with a microphone and noise at 22 dB)
    far         one room, direct sound 10 dB below the rest; sample and test at different spots of it
    hall        the same with RT60 1.8 s
    tel, nb8k   a second microphone: a telephone band, 8 kHz sampling
    loud        WORLD: the sample at a random effort, tests "raised" and "raised more"
    hurry       WORLD: the sample a fifth quicker and a little higher, the test nearly a third quicker

An augmentation is made of the normal samples and added as a further one would be: "pitch" plays them 12 % faster, "tilt" adds 3 dB
an octave from 500 Hz to 3 kHz.
"""
import argparse
import importlib.util
import os
import pathlib

import numpy as np

_file = pathlib.Path(__file__).with_name("calibrate-channels.py")
_spec = importlib.util.spec_from_file_location("channels", _file)
channels = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(channels)

RATE, ENROL = channels.RATE, channels.ENROL_S * channels.RATE
BASES = ["clean", "S1", "S3"]
# Test → the style of the further sample that is meant for it.
STYLE_OF = {"far": "far", "hall": "hall", "tel": "tel", "nb8k": "nb8k", "raised": "loud", "raised more": "loud", "hurry": "hurry"}
AUGMENTATIONS = ["pitch", "tilt", "pitch and tilt"]


# ── sound ────────────────────────────────────────────────────────────────────────────────────────────────────────────

def device(base, x, rng, h=None):
    """`x` before the device of a base, in its own room or in the room `h`."""
    if base == "clean":
        return x if h is None else channels.room(x, h)
    own, seed = {"S1": (channels.H[3], 11), "S3": (channels.response(.5, 0, 22), 13)}[base]
    return channels.noisy(channels.microphone(channels.room(x, own if h is None else h), seed), 22, rng)


def second(base, x, rng, kind):
    """`x` by the second microphone, in the room of a base."""
    y = x if base == "clean" else channels.room(x, channels.H[3] if base == "S1" else channels.response(.5, 0, 22))
    return channels.noisy(channels.OTHER[kind](y, rng), 30, rng)


def tilted(x):
    hz = [0, 500, 1000, 2000, 3000, 8000]
    gains = 10 ** (np.array([0, 0, 3, 6, 7.8, 7.8]) / 20)
    return channels.lfilter(channels.firwin2(257, hz, gains, fs=RATE), 1, x).astype(np.float32)


def faster(x):
    return channels.resample_poly(x, 25, 28).astype(np.float32)


def reader(index):
    """[(reader, kind, base, name, seconds, embedding, acoustics)] of a reader; nothing if there is too little speech."""
    x, _ = channels.sf.read(channels.FILES[index], dtype="float32")
    rng, out = np.random.default_rng(5000 + index), []
    u = rng.uniform
    first, rest = x[:ENROL], x[ENROL + 3200:]
    masks = channels.speech(first), channels.speech(rest)
    pitch = channels.pitch_of(x)
    if masks[0].sum() < 400 or masks[1].sum() < 200:
        return index, pitch, []
    voiced = {"loud": channels.effort(u(1.2, 1.5), u(1.1, 1.3), u(2.5, 4), u(1.04, 1.1), u(1.03, 1.12))(first, None),
              "hurry": channels.effort(1.06, 1.1, 1, 1, 1.2)(first, None)}
    voiced_tests = {"raised": channels.OTHER["eff1"](rest, None), "raised more": channels.OTHER["eff2"](rest, None),
                    "hurry": channels.effort(1.1, 1.15, 1.5, 1, 1.3)(rest, None)}
    rooms = {"far": (.7, -10, 31), "hall": (1.8, -6, 33)}

    def net(z, y, mask):
        return channels.cut(z, mask if len(z) == len(y) else channels.speech(z))

    def sample(base, name, z, mask=None):
        n = channels.cut(z, masks[0] if mask is None else mask)[:4 * RATE]
        if len(n) >= 1.5 * RATE:
            out.append((index, "s", base, name, len(n) / RATE) + channels.embed(n))
            for half in (n[:len(n) // 2], n[len(n) // 2:]):
                out.append((index, "h", base, name, len(half) / RATE) + channels.embed(half))

    def tests(base, name, z, mask=None):
        n = channels.cut(z, masks[1] if mask is None else mask)
        for seconds in (1.5, 2.0):
            if len(n) >= seconds * RATE:
                out.append((index, "t", base, name, seconds) + channels.embed(n[:int(seconds * RATE)]))

    for base in BASES:
        normal = channels.cut(device(base, first, rng), masks[0])
        third = len(normal) // 3
        for k in range(3):
            out.append((index, "e", base, f"normal {k}", third / RATE) + channels.embed(normal[k * third:(k + 1) * third]))
        tests(base, "normal", device(base, rest, rng))
        for name, (rt60, drr, seed) in rooms.items():
            sample(base, name, device(base, first, rng, channels.response(rt60, drr, seed)))
            tests(base, name, device(base, rest, rng, channels.response(rt60, drr, seed + 50)))
        for kind in ("tel", "nb8k"):
            sample(base, kind, second(base, first, rng, kind))
            tests(base, kind, second(base, rest, rng, kind))
        for name, y in voiced.items():
            z = device(base, y, rng)
            sample(base, name, z, masks[0] if len(z) == len(first) else channels.speech(z))
        for name, y in voiced_tests.items():
            z = device(base, y, rng)
            tests(base, name, z, masks[1] if len(z) == len(rest) else channels.speech(z))
        for name, change in (("pitch", faster), ("tilt", tilted), ("pitch and tilt", lambda y: tilted(faster(y)))):
            out.append((index, "a", base, name, 4.0) + channels.embed(change(normal)[:4 * RATE]))
    return index, pitch, out


def start_worker(audio):
    channels.start_worker(audio)


def rows_of(indices, audio, jobs, cache):
    if cache and cache.exists():
        return dict(np.load(cache))
    with channels.Pool(jobs, start_worker, (audio,)) as pool:
        done = list(pool.imap(reader, indices))
    columns = [np.array(column) for column in zip(*(row for _, _, rows in done for row in rows))]
    stored = dict(zip(("speaker", "kind", "base", "name", "seconds", "e", "acoustics"), columns))
    stored["pitch"] = np.array([(index, pitch) for index, pitch, _ in done])
    if cache:
        np.savez(cache, **stored)
    return stored


# ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────

unit, THRESHOLD = channels.unit, channels.THRESHOLD


class Confidence:
    """The shipped compensation and constants."""

    def __init__(self):
        self.k, self.compensate = channels.shipped()

    def __call__(self, tests, seconds, acoustics, voices, heard):
        """Log odds of tests [t] against voices [v], with the acoustics of both."""
        return channels.log_odds(self.k, self.compensate, tests, seconds, acoustics, voices, heard)


class Readers:
    """What was heard of `speakers` before one device."""

    def __init__(self, rows, speakers, base):
        self.rows, self.base = rows, base
        of = lambda s, kind: (rows["speaker"] == s) & (rows["kind"] == kind) & (rows["base"] == base)
        whole = lambda s: of(s, "e").sum() == 3 and len(set(rows["name"][of(s, "s")])) == len(set(STYLE_OF.values()))
        self.speakers = np.array([s for s in speakers if whole(s)])
        pitch = dict(rows["pitch"])
        self.sex = np.array(["F" if pitch[s] > 160 else "M" for s in self.speakers])

    def voices(self, kind, name=None):
        """[speaker, sample, 192] and [speaker, sample, 3]."""
        rows = self.rows
        mine = (rows["kind"] == kind) & (rows["base"] == self.base)
        if name is not None:
            mine &= rows["name"] == name
        found = [np.flatnonzero(mine & (rows["speaker"] == s)) for s in self.speakers]
        return np.stack([rows["e"][i] for i in found]), np.stack([rows["acoustics"][i] for i in found])

    def tests(self, name):
        """Embeddings, seconds, acoustics, same [test, speaker], sexes [test, speaker]."""
        rows = self.rows
        mine = (rows["kind"] == "t") & (rows["base"] == self.base) & (rows["name"] == name) & np.isin(rows["speaker"], self.speakers)
        who = rows["speaker"][mine]
        same = who[:, None] == self.speakers[None]
        sex = self.sex[np.searchsorted(self.speakers, who)]
        sexes = np.where(sex[:, None] == self.sex[None], self.sex[None], "X")
        return (rows["e"][mine], rows["seconds"][mine], rows["acoustics"][mine]), same, sexes


def only_normal(normal, styles):
    return [(unit(normal[0].sum(1)), normal[1].mean(1))]


def mean(normal, styles):
    e, a = (np.concatenate([part] + [s[i] for s in styles], 1) for i, part in enumerate(normal))
    return [(unit(e.sum(1)), a.mean(1))]


def halved(normal, styles):
    """The mean of the normal samples weighs as much as each style."""
    n, a = only_normal(normal, styles)[0]
    return [(unit(n + sum(s[0].sum(1) for s in styles)), np.mean([a] + [s[1].mean(1) for s in styles], 0))]


def apart(normal, styles):
    """The normal mean and each style by itself; the likelier one counts."""
    return only_normal(normal, styles) + [(s[0][:, 0], s[1][:, 0]) for s in styles]


def mean_or_normal(normal, styles):
    return only_normal(normal, styles) + mean(normal, styles)


def towards(normal, styles):
    """The normal mean, and half way from it to each style; the likelier one counts."""
    own = only_normal(normal, styles)
    return own + [(unit(own[0][0] + s[0][:, 0]), s[1][:, 0]) for s in styles]


def towards_heard_between(normal, styles):
    own = only_normal(normal, styles)
    return own + [(unit(own[0][0] + s[0][:, 0]), (own[0][1] + s[1][:, 0]) / 2) for s in styles]


def odds(confidence, tests, views, how="max"):
    """Log odds [test, speaker]. "nearest": the view whose acoustics are nearest to those of the test decides."""
    all_of = np.stack([confidence(*tests, e, a) for e, a in views])
    if how == "max":
        return all_of.max(0)
    if how == "mean":
        return all_of.mean(0)
    distance = np.stack([np.abs(tests[2][:, None] - a[None]).sum(2) for _, a in views])
    return np.take_along_axis(all_of, distance.argmin(0)[None], 0)[0]


METHODS = [
    ("the normal samples alone", only_normal, "max"),
    ("mean of all samples", mean, "max"),
    ("mean of styles", halved, "max"),
    ("style apart, likelier", apart, "max"),
    ("style apart, mean of both", apart, "mean"),
    ("style apart, nearer acoustics", apart, "nearest"),
    ("normal or mean of all, likelier", mean_or_normal, "max"),
    ("normal or half way, likelier", towards, "max"),
    ("normal or half way, acoustics between, likelier", towards_heard_between, "max"),
    ("normal or half way, nearer acoustics", towards, "nearest"),
]


def figures(parts):
    """FRR, rejected, FAR, FAR of women, of men, in percent, of [(log odds, same, sexes)]."""
    lo, same, sexes = (np.concatenate([p[i].ravel() for p in parts]) for i in range(3))
    p = 1 / (1 + np.exp(-lo))
    far = lambda which: 100 * (p[~same & which] >= THRESHOLD).mean()
    return (100 * (p[same] < THRESHOLD).mean(), 100 * (p[same] < .5).mean(), far(same | ~same), far(sexes == "F"), far(sexes == "M"))


def tried(confidence, groups, conditions, enrolled, how="max"):
    """What `enrolled(group, condition)` makes of every group, tried in each of `conditions` and as usual: the share refused
    in each condition, and the figures of all of them and as usual."""
    there, usual, refused = [], [], []
    for condition in conditions:
        parts = []
        for group in groups:
            made = enrolled(group, condition)
            for name, into in ((condition, parts), ("normal", usual)):
                tests, same, sexes = group.tests(name)
                into.append((odds(confidence, tests, made, how), same, sexes))
        there += parts
        refused.append(figures(parts)[0])
    return refused, figures(there), figures(usual)


def print_row(label, cells, t, n):
    """One line of the tables that end with the figures of all conditions, `t`, and as usual, `n`."""
    print(f"| {label} | " + " | ".join(cells) + f" | {t[0]:.1f} %, {t[1]:.1f} % | {t[2]:.2f}, {t[3]:.2f}, {t[4]:.2f} % | "
          f"{n[0]:.1f} % | {n[2]:.2f}, {n[3]:.2f}, {n[4]:.2f} % |")


def style_table(confidence, groups, conditions, styles_of):
    print("\n| | " + " | ".join(conditions) + " | all: refused, rejected | FAR there: all, women, men | as usual: refused | FAR as usual: all, women, men |")
    print("|---|" + "---|" * (len(conditions) + 4))
    for label, views, how in METHODS:
        def enrolled(group, condition):
            return views(group.voices("e"), [group.voices("s", style) for style in styles_of(condition)])

        refused, there, usual = tried(confidence, groups, conditions, enrolled, how)
        print_row(label, [f"{share:.1f} %" for share in refused], there, usual)


class Rule:
    """What daemon/src/speaker/further.rs makes of a further sample of each speaker of a group."""

    def __init__(self, confidence, group, style):
        (n, na), (whole, wa), (h, ha) = group.voices("e"), group.voices("s", style), group.voices("h", style)
        cohort = np.frombuffer((channels.MODELS / "calibration/campplus.cohort.bin").read_bytes()[8:], "<f4").reshape(-1, 192)
        count = len(group.speakers)

        def odds_of(e, a, seconds, voices, sounds, more=()):
            normal = (voices[None], sounds[None])
            made = mean(normal, [(w[None, None], s[None, None]) for w, s in more])
            return odds(confidence, (e[None], np.array([seconds]), a[None]), made)[0, 0]

        self.theirs, self.least, self.gain, self.loss, self.worst = (np.zeros(count) for _ in range(5))
        self.nearer = np.zeros(count, bool)
        for i in range(count):
            voices, sounds, added = n[i], na[i], [(whole[i, 0], wa[i, 0])]
            self.theirs[i] = odds_of(whole[i, 0], wa[i, 0], 4, voices, sounds)
            before = [odds_of(h[i, j], ha[i, j], 2, voices, sounds) for j in range(2)]
            after = [odds_of(h[i, j], ha[i, j], 2, voices, sounds, [(h[i, 1 - j], ha[i, 1 - j])]) for j in range(2)]
            self.least[i], self.gain[i] = min(before), np.mean(after) - np.mean(before)
            lost = []
            for j in range(3):
                rest = np.delete(voices, j, 0), np.delete(sounds, j, 0)
                lost.append(odds_of(voices[j], sounds[j], 2, *rest) - odds_of(voices[j], sounds[j], 2, *rest, added))
            self.loss[i] = np.mean(lost)
            normal = (voices[None], sounds[None])
            views = only_normal(normal, []) + mean(normal, [(whole[i][None], wa[i][None])])
            taken = [(confidence(cohort, np.full(len(cohort), 2.), np.tile(s[0], (len(cohort), 1)), e, s)
                      >= np.log(THRESHOLD / (1 - THRESHOLD))).sum() for e, s in views]
            self.nearer[i] = taken[1] > taken[0]
        own = only_normal((n, na), [])[0]
        all_of = confidence(whole[:, 0], np.full(count, 4.), wa[:, 0], *own)
        self.strangers = all_of[~np.eye(count, dtype=bool)]

    def kept(self, theirs=.85, known=.995, gain=.5, loss=.5):
        logit = lambda p: np.log(p / (1 - p))
        return ((self.theirs >= logit(theirs)) & (self.least < logit(known)) & (self.gain >= gain)
                & (self.loss <= loss) & ~self.nearer)


RULES = [
    ("none", lambda rule: rule.kept(gain=99)),
    ("every one", lambda rule: np.ones(len(rule.gain), bool)),
    ("theirs from 0.5, gain 0.5, loss 0.5", lambda rule: rule.kept(theirs=.5, known=1 - 1e-12)),
    ("the same, not known from 0.999", lambda rule: rule.kept(theirs=.5, known=.999)),
    ("the same, not known from 0.995", lambda rule: rule.kept(theirs=.5)),
    ("the same, not known from 0.98", lambda rule: rule.kept(theirs=.5, known=.98)),
    ("theirs from 0.85, gain 0.5, loss 0.5, not known from 0.995", lambda rule: rule.kept()),
    ("the same, gain 0", lambda rule: rule.kept(gain=0)),
    ("the same, gain 1", lambda rule: rule.kept(gain=1)),
    ("the same, loss 0.2", lambda rule: rule.kept(loss=.2)),
]


def mean_of_kept(group, offered):
    """The mean of the normal samples and of those styles that are kept, of each speaker."""
    e, a = (part.sum(1) for part in group.voices("e"))
    count = np.full(len(e), 3.)
    for style, kept in offered:
        more, sound = group.voices("s", style)
        e, a, count = e + more[:, 0] * kept[:, None], a + sound[:, 0] * kept[:, None], count + kept
    return [(unit(e), a / count[:, None])]


def rule_table(confidence, groups, conditions):
    rules = {(g.base, s): Rule(confidence, g, s) for g in groups for s in set(STYLE_OF.values())}
    print("\n| style | P of 4 s of it: owners below 0.5, 0.85 | strangers from 0.5, 0.85 on | known from 0.98 on | gain: 10, 50, 90 % | "
          "loss: 10, 50, 90 % | nearer to strangers |\n|---|---|---|---|---|---|---|")
    for style in dict.fromkeys(STYLE_OF.values()):
        of = [rules[g.base, style] for g in groups]
        own, other, least, gain, loss, nearer = (np.concatenate([getattr(r, f) for r in of]) for f in
                                                 ("theirs", "strangers", "least", "gain", "loss", "nearer"))
        p, q = 1 / (1 + np.exp(-own)), 1 / (1 + np.exp(-other))
        spread = lambda x: ", ".join(f"{v:.2f}" for v in np.percentile(x, (10, 50, 90)))
        print(f"| {style} | {100 * (p < .5).mean():.1f}, {100 * (p < .85).mean():.1f} % | {100 * (q >= .5).mean():.2f}, "
              f"{100 * (q >= .85).mean():.2f} % | {100 * (1 / (1 + np.exp(-least)) >= .98).mean():.0f} % | {spread(gain)} | {spread(loss)} | "
              f"{100 * nearer.mean():.1f} % |")
    print("\n| kept | " + " | ".join(f"{c}: kept, refused" for c in conditions) + " | all: refused, rejected | FAR there: all, women, men | "
          "as usual: refused | FAR as usual: all, women, men |")
    print("|---|" + "---|" * (len(conditions) + 4))
    for label, keep in RULES:
        def enrolled(group, condition):
            style = STYLE_OF[condition]
            return mean_of_kept(group, [(style, keep(rules[group.base, style]))])

        refused, there, usual = tried(confidence, groups, conditions, enrolled)
        kept = [np.concatenate([keep(rules[g.base, STYLE_OF[condition]]) for g in groups]) for condition in conditions]
        print_row(label, [f"{100 * k.mean():.0f} %, {share:.1f} %" for k, share in zip(kept, refused)], there, usual)
    four_rows(confidence, groups, rules)


def four_rows(confidence, groups, rules):
    """All four styles offered to everybody, and what the rule keeps of them."""
    conditions, styles = ["far", "tel", "raised", "raised more", "hurry"], ["far", "tel", "loud", "hurry"]
    print("\nFour offered: far, tel, loud, hurry\n\n| kept | " + " | ".join(conditions) + " | all: refused, rejected | FAR there: all, women, men | "
          "as usual: refused | FAR as usual: all, women, men |")
    print("|---|" + "---|" * (len(conditions) + 4))
    for label, keep in RULES:
        def enrolled(group, _):
            return mean_of_kept(group, [(style, keep(rules[group.base, style])) for style in styles])

        refused, there, usual = tried(confidence, groups, conditions, enrolled)
        print_row(label, [f"{share:.1f} %" for share in refused], there, usual)


def augmentation_table(confidence, groups):
    conditions = ["raised", "raised more", "hurry"]
    print("\n| added to the enrolment | " + " | ".join(conditions) + " | FAR there | as usual: refused | FAR as usual |")
    print("|---|" + "---|" * (len(conditions) + 3))
    for label, names in [("nothing", [])] + [(n, [n]) for n in AUGMENTATIONS] + [("pitch, tilt, both", AUGMENTATIONS)]:
        for method, views, how in (METHODS[1], METHODS[9]):
            def enrolled(group, _):
                return views(group.voices("e"), [group.voices("a", name) for name in names])

            refused, t, n = tried(confidence, groups, conditions, enrolled, how)
            cells = [f"{share:.1f} %" for share in refused]
            print(f"| {label}; {method} | " + " | ".join(cells) + f" | {t[2]:.2f} % | {n[0]:.1f} % | {n[2]:.2f} % |")
            if not names:
                break


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=pathlib.Path)
    parser.add_argument("--cache", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    files = len(list(options.audio.glob("*.flac")))
    others = [i for i in range(files) if i % 10 >= 4][:channels.SPEAKERS]
    rows = rows_of(others, options.audio, options.jobs, options.cache and options.cache / "styles.npz")
    confidence = Confidence()
    found = np.unique(rows["speaker"])
    for title, speakers in (("to choose by", found[found % 10 < 7]), ("held out", found[found % 10 >= 7])):
        groups = [Readers(rows, speakers, base) for base in BASES]
        women = [(g.sex == "F").sum() for g in groups]
        print(f"\n#### {title}: {[len(g.speakers) for g in groups]} readers, {women} women")
        style_table(confidence, groups, list(STYLE_OF), lambda condition: [STYLE_OF[condition]])
        print("\nEach with four further samples: far, tel, loud, hurry")
        style_table(confidence, groups, ["far", "tel", "raised", "raised more", "hurry"], lambda _: ["far", "tel", "loud", "hurry"])
        rule_table(confidence, groups, list(STYLE_OF))
        augmentation_table(confidence, groups)
