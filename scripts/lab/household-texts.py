#!/usr/bin/env python3
"""Made-up talk of a household with its voice assistant, for benches that need texts which repeat themselves as people do.

Nobody said any of it. Requests are drawn from a grammar (templates and what fills them, the frequent ones far more often:
Zipf), some of them free text of words of the documentation, also Zipf; answers are those of the built-in responder, word for
word. Times come in bursts as people talk, confidences are 32-bit numbers as the device writes them.

One message a line, tab-separated: number, kind, text, meta, milliseconds since the first one.
"""
import argparse
import bisect
import datetime
import itertools
import pathlib
import random
import re
import struct

PEOPLE = "Anna Ben Clara David Emma Felix Grandma Hannah Ida Jonas Karl Lena Max Nora Oscar Paula".split()
ROOMS = "kitchen,living room,bedroom,hall,bathroom,office,garden,cellar,attic,garage,nursery,balcony".split(",")
THINGS = ("lights,heating,radio,blinds,music,fan,television,coffee machine,dishwasher,washing machine,alarm,door,window,"
          "oven,kettle,reading lamp,floor lamp,string of lights").split(",")
GROCERIES = ("milk,bread,eggs,butter,coffee,cheese,apples,bananas,tomatoes,pasta,rice,onions,potatoes,yoghurt,toilet paper,"
             "washing powder,dog food,olive oil,flour,sugar,salt,carrots,lemons,oat milk,cat litter,batteries,light bulbs,"
             "sparkling water,orange juice,chocolate,cucumbers,garlic,spinach,honey,tea").split(",")
OBJECTS = ("spare key,bicycle,ladder,passport,drill,umbrella,suitcase,tent,camera,sewing machine,toolbox,garden hose,"
           "charger,blue folder,tax papers,warranty of the oven,christmas decorations,old photographs,swimming bag,"
           "library card,guitar,picnic blanket,first aid kit,sledge,winter coats,vaccination card").split(",")
PLACES = ("in the cellar,behind the shed,under the blue pot,in the top drawer,on the shelf in the hall,in the attic,"
          "in the garage,with the neighbours,in the glove compartment,under the bed,in the kitchen cupboard,at work,"
          "next to the boiler,in the wardrobe,on the balcony,behind the books").split(",")
ERRANDS = ("call the dentist,water the plants,pay the electricity bill,take out the bins,pick up the parcel,book the train,"
           "return the library books,feed the cat,write to the landlord,renew the insurance,buy a present for {person},"
           "take {person} to the doctor,change the filter,clean the gutters,order heating oil,hang out the washing").split(",")
DAYS = "tomorrow,today,on monday,on tuesday,on wednesday,on thursday,on friday,on saturday,on sunday,next week,tonight".split(",")
OTHER = "I heard you. Say help to hear what I can do."
UNKNOWN = "I do not know that. If you tell me to remember it, I will."
# The most frequent first: what Zipf's law is applied to.
TEMPLATES = [
    ("set a timer for {number} minutes", "say", OTHER),
    ("turn on the {thing} in the {room}", "say", OTHER),
    ("what time is it", "ask", "{clock}"),
    ("turn off the {thing} in the {room}", "say", OTHER),
    ("add {grocery} to the shopping list", "say", OTHER),
    ("what is the weather {day}", "ask", UNKNOWN),
    ("remember that the {object} is {place}", "note", "I will remember that the {object} is {place}."),
    ("where is the {object}", "ask", "You told me that the {object} is {place}."),
    ("remind me to {errand} {day}", "note",
     "I will remember that you want to {errand} {day}. I cannot remind you by myself yet, but you can ask me."),
    ("thank you", "ask", "You are welcome."),
    ("turn off the {thing}", "say", OTHER),
    ("play something by {person}", "say", OTHER),
    ("what day is it", "ask", "{date}"),
    ("add {grocery} and {grocery2} to the shopping list", "say", OTHER),
    ("good morning", "ask", "Hello {person}."),
    ("set the heating in the {room} to {degrees} degrees", "say", OTHER),
    ("{free}", "say", OTHER),
    ("what do you remember about the {object}", "ask", "You told me that the {object} is {place}."),
    ("will it rain {day}", "ask", UNKNOWN),
    ("remember that {person}'s birthday is on the {number} of {month}", "note",
     "I will remember that {person}'s birthday is on the {number} of {month}."),
    ("when is {person}'s birthday", "ask", "You told me that {person}'s birthday is on the {number} of {month}."),
    ("stop", "ask", "All right."),
    ("wake me at {hour}:{minute:02}", "say", OTHER),
    ("remember that {free}", "note", "I will remember that {free}."),
    ("remember that {person} is coming {day} at {hour}", "note", "I will remember that {person} is coming {day} at {hour}."),
    ("what do you know about {person}", "ask", "You have not told me anything about {person} that I remember."),
    ("how are you", "ask", "I am well, thank you. What can I do for you?"),
    ("remember that the code of the {object} is {code}", "note", "I will remember that the code of the {object} is {code}."),
    ("what is the code of the {object}", "ask", "You told me that the code of the {object} is {code}."),
    ("tell me about {free}", "ask", UNKNOWN),
    ("good night", "ask", "Goodbye {person}."),
    ("forget that", "ask", "I have forgotten it."),
]


class Zipf:
    """Items, the first one drawn most often."""

    def __init__(self, items, draw, exponent=1.0):
        self.items, self.draw = list(items), draw
        self.sums = list(itertools.accumulate(1 / (rank + 1) ** exponent for rank in range(len(self.items))))

    def pick(self):
        return self.items[bisect.bisect(self.sums, self.draw.random() * self.sums[-1])]


def documentation_words():
    root = pathlib.Path(__file__).resolve().parents[2]
    counts = {}
    for path in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        for word in re.findall(r"[a-z]{2,}", path.read_text(encoding="utf-8").lower()):
            counts[word] = counts.get(word, 0) + 1
    return sorted(counts, key=lambda word: (-counts[word], word))


def turns(draw):
    several = {name: Zipf(items, draw) for name, items in [
        ("person", PEOPLE), ("room", ROOMS), ("thing", THINGS), ("grocery", GROCERIES), ("grocery2", GROCERIES[::-1]),
        ("object", OBJECTS), ("place", PLACES), ("errand", ERRANDS), ("day", DAYS)]}
    templates, words = Zipf(TEMPLATES, draw, 0.8), Zipf(documentation_words(), draw)
    numbers, months = Zipf([5, 10, 3, 20, 15, 8, 30, 45, 2, 12, 1, 7, 25, 6, 9, 11], draw), "March May July October".split()
    at = datetime.datetime(2025, 10, 9, 7)
    while True:
        # A few turns in a row, then a pause; fewer at night.
        for _ in range(1 + int(draw.expovariate(0.5))):
            at += datetime.timedelta(seconds=4 + draw.expovariate(1 / 12))
            template, kind, answer = templates.pick()
            slots = {name: zipf.pick() for name, zipf in several.items()}
            slots["errand"] = slots["errand"].format(person=several["person"].pick())
            slots.update(number=numbers.pick(), degrees=draw.randint(17, 24), hour=draw.randint(6, 11), month=draw.choice(months),
                         minute=draw.choice([0, 15, 30, 45]), code=draw.randint(1000, 9999),
                         clock=at.strftime("It is %-I:%M %p."), date=at.strftime("It is %A, the %-dth of %B %Y."),
                         free=" ".join(words.pick() for _ in range(3 + int(draw.expovariate(0.15)))))
            yield kind, template.format(**slots), answer.format(**slots), at
        at += datetime.timedelta(seconds=draw.expovariate(1 / 1500))
        if at.hour < 6:
            at += datetime.timedelta(hours=6 - at.hour)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--messages", type=int, default=1000)
    arguments.add_argument("--seed", type=int, default=7)
    given = arguments.parse_args()
    draw = random.Random(given.seed)
    start, n = datetime.datetime(2025, 10, 9), 0
    for kind, question, answer, at in turns(draw):
        confidence = struct.unpack("f", struct.pack("f", 1 - draw.expovariate(30)))[0]
        ms = int((at - start).total_seconds() * 1000)
        heard = f'{{"confidence": {max(confidence, 0.85)!r}, "engine": "vosk"}}'
        for said_as, text, meta in [(kind, question, heard), ("say", answer, '{"engine": "builtin"}')]:
            if n == given.messages:
                return
            print(n, said_as, text, meta, ms, sep="\t")
            n += 1


main()
