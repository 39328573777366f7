#!/usr/bin/env python3
"""Finds the commands of README.md and docs/, checks them against the program, and writes them down for try-docs.sh.

Commands are the lines of every fenced block in sh, bash or console, and every inline code that begins with sudo. They
are run in the order of the page. Other inline code that begins with jarvisd, systemctl or scripts/ is a mention: its
words are checked and not run. So is the list of commands in a block without a language.

A mark is a comment in front of what it is about. One mark is for the block or the command that follows; with
`in "TEXT"` it is for the next command of the section that contains TEXT. Each says why:

    <!-- run: skip because REASON -->             not run here
    <!-- run: hardware because REASON -->         not run here: it needs a real device
    <!-- run: expect 75 because REASON -->        its exit code
    <!-- run: stop 5 because REASON -->           stopped with Ctrl-C after so many seconds, which is no failure
    <!-- run: type "y" because REASON -->         it gets a terminal, and these lines are typed
    <!-- run: setup NAME because REASON -->       a function of scripts/docs-in-container.sh is run first
    <!-- run: later 1 because REASON -->          run when all pages are done, in the order of the numbers
    <!-- run: write PATH because REASON -->       the block of text that follows is written to this file first
"""
import argparse
import itertools
import pathlib
import re
import shlex
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
# In this order: the later ones need what the earlier ones have set up.
PAGES = [
    "README.md",
    "docs/install.md",
    "docs/voice-authentication.md",
    "docs/configuration.md",
    "docs/home-assistant.md",
    "docs/postgres.md",
    "docs/backup-recovery.md",
    "docs/troubleshooting.md",
    "docs/upgrade.md",
    "docs/hardware.md",
    "docs/image.md",
    "docs/overview.md",
    "docs/changelog.md",
    "firmware-config/README.md",
    "models/README.md",
]
SHELL = {"sh", "bash", "console"}
DATA = {"toml", "json", "yaml", "text"}
MENTION = re.compile(r"(sudo (-u \w+ )?)?(jarvisd|systemctl|scripts/\S+)(\s|$)")
MARK = re.compile(r"\s*<!-- run: (.*?) because (\S.*?) -->\s*$")
VERBS = {"skip": 0, "hardware": 0, "expect": 1, "stop": 1, "type": None, "setup": 1, "later": 1, "write": 1}
WIDEST = 110
# Words of the pages that a reader replaces. The value is a word, or what the shell in the container makes of it.
PLACEHOLDERS = {
    r"\bBROKER\b": "localhost",
    r"(?<=fetch )NAME\b": '"$lost_backup"',
    r"\bNAME\b": '"$(newest_backup)"',
    r"(?<=--conversation )ID\b": '"$lost_conversation"',
    r"--at 2026-11-20\b": '--at "$(date -d tomorrow +%F)"',
    r"2026-11-22 18:30:00\+01": "$moment",
}


class Fault(Exception):
    pass


class Mark:
    def __init__(self, place, text, reason):
        words = shlex.split(text)
        self.place, self.reason, self.used = place, reason, False
        self.verb, words = words[0], words[1:]
        self.inside = None
        if len(words) >= 2 and words[-2] == "in":
            self.inside, words = words[-1], words[:-2]
        if self.verb not in VERBS or VERBS[self.verb] not in (None, len(words)):
            raise Fault(f"{place}: no such mark: {text}")
        self.values = words


class Command:
    """One command, or one mention of one. `run` is False for a mention."""

    def __init__(self, place, text, run):
        self.place, self.text, self.run, self.marks = place, text, run, []

    def has(self, *verbs):
        return next((mark for mark in self.marks if mark.verb in verbs), None)


def complete(text):
    """Whether a shell takes these lines as they are, so that the next line begins another command."""
    result = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    return result.returncode == 0 and not result.stderr and not text.rstrip("\n").endswith("\\")


def commands_of_block(place, first, lines):
    name = place.rsplit(":", 1)[0]
    held, begun = [], first
    for number, line in enumerate(lines, first):
        if not held and (not line.strip() or line.lstrip().startswith("#")):
            continue
        if not held:
            begun = number
        held.append(line)
        text = "\n".join(held) + "\n"
        if complete(text):
            yield Command(f"{name}:{begun}", text.rstrip("\n"), True)
            held = []
    if held:
        raise Fault(f"{name}:{begun}: no complete command: {held[0]}")


def session(lines):
    """The commands of a console block: lines after a prompt; the others are what they print."""
    return [line[2:] if line.startswith("$ ") else "" for line in lines]


class Page:
    def __init__(self, path):
        self.name = str(path.relative_to(REPOSITORY))
        self.lines = path.read_text().split("\n")
        self.commands, self.faults, self.writes = [], [], []
        self.marks, self.waiting = [], []
        number = 0
        while number < len(self.lines):
            try:
                number = self.read(number)
            except Fault as fault:
                self.faults.append(str(fault))
                number += 1
        self.faults += [f"{mark.place}: the mark is about no command" for mark in self.marks if not mark.used]

    def take(self, commands):
        """Gives the marks that wait to the commands that they are about."""
        for mark in list(self.waiting):
            wanted = [c for c in commands if mark.inside is None or mark.inside in c.text]
            # A second mark of the same words is about the next command that has them.
            same = (mark.verb, mark.inside)
            wanted = [c for c in wanted if mark.verb == "setup" or same not in [(m.verb, m.inside) for m in c.marks]]
            if not wanted:
                continue
            if mark.inside is not None:
                wanted = wanted[:1]
            for command in wanted:
                command.marks.append(mark)
            mark.used = True
            self.waiting.remove(mark)
        self.commands += commands

    def read(self, number):
        """Reads what begins at this line, and says which line comes next."""
        line = self.lines[number]
        place = f"{self.name}:{number + 1}"
        if "<!-- run:" in line:
            found = MARK.match(line)
            if not found:
                raise Fault(f"{place}: a mark is `<!-- run: VERB because REASON -->`")
            mark = Mark(place, found[1], found[2])
            self.marks.append(mark)
            self.waiting.append(mark)
        elif fence := re.match(r"(\s*)(?:\d+\. )?```(\w*)\s*$", line):
            begin = number + 1
            end = next((n for n in range(begin, len(self.lines)) if self.lines[n].strip() == "```"), None)
            if end is None:
                raise Fault(f"{place}: a block without an end")
            try:
                self.block(place, fence[2], begin, self.lines[begin:end])
            except Fault as fault:
                self.faults.append(str(fault))
            return end + 1
        else:
            if re.match(r"#+ ", line):
                self.waiting = []
            self.inline(number, line)
        return number + 1

    def block(self, place, language, begin, lines):
        margin = min((len(x) - len(x.lstrip()) for x in lines if x.strip()), default=0)
        lines = [x[margin:] for x in lines]
        if language in SHELL:
            lines = session(lines) if language == "console" else lines
            self.take(list(commands_of_block(place, begin + 1, lines)))
            return
        for mark in [m for m in self.waiting if m.verb == "write"]:
            mark.used = True
            self.waiting.remove(mark)
            self.writes.append((place, mark, "\n".join(lines) + "\n", len(self.commands)))
        if not language:
            synopsis = [(n, x) for n, x in enumerate(lines, begin + 1) if MENTION.match(x)]
            for n, x in synopsis:
                self.commands.append(Command(f"{self.name}:{n}", re.split(r"\s{2,}", x)[0], False))
            if not synopsis and any(re.match(r"(sudo|cargo|apt|apt-get|openssl|psql) ", x) for x in lines):
                raise Fault(f"{place}: a block of commands needs its language: ```sh")
        elif language not in DATA:
            raise Fault(f"{place}: {language} is no language of a block that is known here")

    def inline(self, number, line):
        """Inline code may go on in the next line; it belongs to the line on which it begins."""
        text = line
        if line.count("`") % 2 and number + 1 < len(self.lines):
            before = sum(x.count("`") for x in self.paragraph_before(number))
            if before % 2 == 0:
                text += " " + self.lines[number + 1].strip()
            else:
                text = line[line.index("`") + 1 :]
        elif sum(x.count("`") for x in self.paragraph_before(number)) % 2:
            return
        for code in re.findall(r"`([^`]+)`", text):
            code = code.replace("\\|", "|").strip()
            if re.match(r"sudo .+ ", code) and "…" not in code:
                self.take([Command(f"{self.name}:{number + 1}", code, True)])
            elif MENTION.match(code):
                self.commands.append(Command(f"{self.name}:{number + 1}", code, False))

    def paragraph_before(self, number):
        begin = number
        while begin > 0 and self.lines[begin - 1].strip() and not self.lines[begin - 1].strip().startswith("```"):
            begin -= 1
        return self.lines[begin:number]


class Checker:
    """Asks the program, the scripts and the units whether the words of a command are theirs."""

    def __init__(self, program):
        self.program = program
        self.help_of = {}

    def check(self, command):
        for words in simple_commands(command.text):
            words = without_sudo(words)
            if not words:
                continue
            if words[0] == "jarvisd":
                yield from self.jarvisd(command, words[1:])
            elif words[0].startswith("scripts/"):
                yield from self.script(command, words)
            elif words[0] == "systemctl":
                yield from self.units(command, words[1:])

    def jarvisd(self, command, words):
        words = [w.strip("[]") for w in words if w.strip("[]") not in ("…", "...", "COMMAND", "OPTION")]
        words = [re.sub(r"(\.\.\.|…)$", "", w) for w in words]
        words = ["00000000-0000-7000-8000-000000000000" if w == "ID" else w for w in words]
        if not words or not self.program:
            return
        for choice in itertools.product(*[w.split("|") for w in words]):
            choice = [w for w in choice if w]
            result = subprocess.run([self.program, *choice, "--help"], capture_output=True, text=True)
            # An option that takes a value may stand alone in a sentence.
            if result.returncode and choice[-1].startswith("--"):
                result = subprocess.run([self.program, *choice, "1", "--help"], capture_output=True, text=True)
            if result.returncode:
                said = result.stderr.strip().split("\n")[0]
                yield f"{command.place}: jarvisd {' '.join(choice)}: {said}"

    def script(self, command, words):
        path = REPOSITORY / words[0]
        if not path.is_file():
            yield f"{command.place}: there is no {words[0]}"
            return
        if not path.stat().st_mode & 0o100:
            yield f"{command.place}: {words[0]} cannot be executed"
            return
        text = path.read_text()
        for word in words[1:]:
            for flag in re.findall(r"^\[?(--[a-z-]+)", word):
                if flag != "--help" and flag not in text and not words[0].endswith(("backup-db.sh", "restore-db.sh")):
                    yield f"{command.place}: {words[0]} has no {flag}"

    @staticmethod
    def units(command, words):
        for word in words[1:]:
            if not re.match(r"jarvis", word) or "*" in word:
                continue
            name = word if "." in word else word + ".service"
            if not (REPOSITORY / "systemd" / name).is_file():
                yield f"{command.place}: there is no unit {word}"


def simple_commands(text):
    """The words of each simple command of a line, without comments, redirections and substitutions."""
    # In a mention `a|b` is a choice, and in a command a pipe has blanks around it.
    text = re.sub(r"(?<=\S)\|(?=\S)", "\0", text.replace("\\\n", " "))
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|()<>")
    lexer.whitespace_split = True
    words = []
    try:
        found = list(lexer)
    except ValueError:
        return
    skip = False
    for word in found + [";"]:
        if word and set(word) <= set(";&|()"):
            if words:
                yield [w.replace("\0", "|") for w in words]
            words = []
        elif word and set(word) <= set("<>"):
            skip = True
        elif skip:
            skip = False
        elif word not in ("do", "then"):
            words.append(word)


def without_sudo(words):
    """`sudo -u jarvis env A=B jarvisd …` is about jarvisd; so is `systemd-run … jarvisd …`."""
    while words and (words[0] in ("sudo", "env") or re.match(r"[A-Z_]+=", words[0])):
        words = words[3:] if words[:2] == ["sudo", "-u"] else words[1:]
    if words and words[0] == "systemd-run" and "jarvisd" in words:
        return words[words.index("jarvisd") :]
    return words


def pages():
    for name in PAGES:
        yield Page(REPOSITORY / name)
    for path in sorted((REPOSITORY / "docs/design").glob("*.md")):
        yield Page(path)


def check(program):
    faults, ran, marked, mentions = [], 0, [], 0
    known = {str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "docs").glob("*.md")}
    faults += [f"{name}: the page is not in PAGES of docs-commands.py" for name in sorted(known - set(PAGES))]
    setups = (REPOSITORY / "scripts/docs-in-container.sh").read_text()
    checker = Checker(program)
    for page in pages():
        faults += page.faults
        for mark in page.marks:
            if mark.verb == "setup" and f"\nsetup_{mark.values[0]}()" not in setups:
                faults.append(f"{mark.place}: there is no setup_{mark.values[0]}")
        for command in page.commands:
            faults += checker.check(command)
            if not command.run:
                mentions += 1
            elif command.has("skip", "hardware"):
                marked.append(command)
            else:
                ran += 1
    print(f"    {ran + len(marked)} commands, of which {ran} are run in a container and {len(marked)} are not;"
          f" {mentions} mentions" + ("" if program else " (the program was not asked)"))
    for fault in faults:
        print(f"    FAIL  {fault}")
    return 1 if faults else 0


def filled(text):
    for pattern, value in PLACEHOLDERS.items():
        text = re.sub(pattern, lambda _: value, text)
    return text


def plan(folder):
    """Writes one script for each page, and one for each number of `later`, and the commands that are not run."""
    folder.mkdir(parents=True, exist_ok=True)
    later, left_out = {}, []
    for position, page in enumerate(pages()):
        script = []
        writes = list(page.writes)
        for index, command in enumerate(page.commands):
            into = script
            for write in [w for w in writes if w[3] <= index]:
                writes.remove(write)
                into += call("write_file", write[0], write[1].values[0], write[2])
            if not command.run:
                continue
            if mark := command.has("skip", "hardware"):
                kind = "needs hardware" if mark.verb == "hardware" else "not run"
                left_out.append(f"{command.place}: {kind}, {mark.reason}: {short(command.text)}")
                continue
            if mark := command.has("later"):
                into = later.setdefault(int(mark.values[0]), [])
            for mark in command.marks:
                if mark.verb == "setup":
                    into += call("setup", mark.place, mark.values[0])
            options = []
            if mark := command.has("expect"):
                options.append(f"expect={mark.values[0]}")
            if mark := command.has("stop"):
                options.append(f"stop={mark.values[0]}")
            if mark := command.has("type"):
                options += ["terminal", *(f"type={value}" for value in mark.values)]
            into += call("documented", command.place, short(command.text), filled(command.text), *options)
        for write in writes:
            script += call("write_file", write[0], write[1].values[0], write[2])
        if script:
            name = f"{position:02}-{page.name.replace('/', '-')}"
            (folder / name).write_text("".join(script))
    for number, script in sorted(later.items()):
        (folder / f"later-{number}").write_text("".join(script))
    (folder / "left-out").write_text("".join(f"{line}\n" for line in left_out))


def short(text):
    line = re.sub(r"\s+#.*", "", text.split("\n")[0])
    return line if len(line) <= 90 else line[:89] + "…"


def call(*words):
    return [" ".join(shlex.quote(word) for word in words) + "\n"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    checking = commands.add_parser("check", help="whether every command is known, and every mark is about one")
    checking.add_argument("--program", help="the jarvisd whose parser is asked")
    commands.add_parser("list", help="every command, with its place")
    planning = commands.add_parser("plan", help="scripts for try-docs.sh, one for each page")
    planning.add_argument("folder", type=pathlib.Path)
    options = parser.parse_args()
    if options.what == "check":
        return check(options.program)
    if options.what == "plan":
        return plan(options.folder)
    for page in pages():
        for command in page.commands:
            print(f"{command.place}\t{'run' if command.run else 'mention'}\t{command.text!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
