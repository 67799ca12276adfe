"""A generated sample of toy news, so that every model trains with nothing downloaded.

All of it is made up, places and people included. Half of the stories use the words of their own
class. The other half name two classes, and only the order of the words tells which one the story
belongs to: the side that acts ("Bankers sue goalkeepers" is Business, "Goalkeepers sue bankers" is
Sports), or the thing that it is about ("not the merger but the regatta"). A bag of words can but
toss a coin over those, so what a recurrent network gains here, it gains by reading in order.
"""

from __future__ import annotations

import random
import re

import numpy as np

from minirnn.data.rows import CLASS_NAMES, Rows

ORDER_SHARE = 0.5  # stories that only the order of the words decides
VAGUE_TITLE_SHARE = 0.05  # titles that tell nothing, as in real news
LAST_WORD_SHARE = 0.95  # stories whose last sentence comes back to the point
MORE_SHARE = 0.55  # stories that go on, at each sentence: most are short, a few are long
SHORTEST_DESCRIPTION, LONGEST_DESCRIPTION = 8, 60  # words

_SLOT = re.compile(r"\{(\w+)\}")


def _split(words: str) -> list[str]:
    return [word.strip() for word in words.split(",")]


# Who acts, and what a story can be about: one list a class, in the order of CLASS_NAMES.
_ACTORS = [
    _split(
        "ministers, diplomats, senators, lawmakers, envoys, ambassadors, generals, voters, "
        "delegates, governors"
    ),
    _split(
        "goalkeepers, strikers, coaches, sprinters, swimmers, rowers, referees, wrestlers, "
        "cyclists, golfers"
    ),
    _split(
        "bankers, brokers, lenders, retailers, investors, insurers, brewers, accountants, "
        "auditors, wholesalers"
    ),
    _split(
        "scientists, astronomers, programmers, engineers, physicists, chemists, hackers, "
        "astronauts, botanists, geologists"
    ),
]
_TOPICS = [
    _split(
        "election, ceasefire, treaty, summit, referendum, truce, coronation, blockade, "
        "peace accord, border dispute"
    ),
    _split(
        "cup final, marathon, relay, tournament, derby, regatta, playoff, rematch, title race, "
        "grand prix"
    ),
    _split(
        "merger, takeover, dividend, share sale, bankruptcy, price war, buyout, profit warning, "
        "bond issue, trade fair"
    ),
    _split(
        "telescope, satellite, software update, comet, microchip, vaccine, search engine, robot, "
        "space probe, fossil"
    ),
]

# What stories of one class say in the words of that class alone.
_PLAIN_TITLES = [
    [
        "Peace talks resume in {town} after {topic}",
        "{doers} gather in {town} to discuss {topic}",
        "{town} votes on {day} as {doers} plead for calm",
        "Foreign minister {name} flies to {town} for {topic}",
        "{num} nations sign pact on {topic} in {town}",
        "Government of {town} survives by {num} votes",
        "Troops leave {town} border as {doers} watch",
        "{doers} reject prime minister {name}'s new border plan",
        "Opposition leader {name} calls for {topic}",
        "{topic} divides cabinet in {town}",
    ],
    [
        "{town} win {topic} with {num} late goals",
        "{name} scores {num} times as {town} reach {topic}",
        "Captain {name} out of {topic} with injured knee",
        "{town} {doers} take {num} medals",
        "Coach {name} names young team for {topic}",
        "{doers} cheer as {town} stadium opens",
        "{name} beats {name2} in {num} sets",
        "{town} {doers} train hard for {topic}",
        "Fans of {town} queue for {topic} tickets",
        "Late kick sends {town} into {topic}",
    ],
    [
        "Shares of {firm} fall {num} percent on {topic}",
        "{firm} profit up {num} percent in {town}",
        "{doers} expect higher prices in {town}",
        "{firm} to cut {num} jobs after {topic}",
        "{topic} lifts {town} stock market",
        "{firm} chief {name} quits over {topic}",
        "{doers} welcome {firm} sales figures",
        "{town} bank lowers interest rate for {doers}",
        "{firm} and {firm2} agree on {topic}",
        "Quarterly earnings of {firm} please {doers}",
    ],
    [
        "{doers} test new {topic} in {town} laboratory",
        "{topic} data puzzles {doers} at {town}",
        "New {topic} runs {num} times faster",
        "{doers} fix security hole in {topic}",
        "Spacecraft with {town} {topic} reaches orbit",
        "Dr {name} maps genes of {num} beetles",
        "{topic} keeps {doers} at {town} laboratory busy",
        "{town} {doers} teach computers to read",
        "Pictures of {topic} crash {town} servers",
        "{doers} in {town} measure heat of stars",
    ],
]
_PLAIN_SENTENCES = [
    [
        "the government of {town} called for talks with its neighbours",
        "{doers} from {num} nations discussed the {topic} behind closed doors",
        "foreign minister {name} said that troops would leave the border by {day}",
        "soldiers kept watch in the capital while {doers} debated the {topic}",
        "exiles came home to the capital of {town} before the {topic}",
        "the prime minister promised a fair vote within {num} months",
        "a spokesman for the foreign ministry spoke of the {topic} with hope",
        "the opposition walked out of parliament over the {topic}",
        "{num} refugees crossed the border near {town} on {day}",
        "{doers} voted by {num} to {num2} for new peace talks",
    ],
    [
        "{name} scored {num} goals in the second half for {town}",
        "{doers} from {town} won the {topic} in extra time on {day}",
        "coach {name} praised the young team after the {topic}",
        "the crowd in the {town} stadium sang through the {topic}",
        "{town} lead the league by {num} points with {num2} games to play",
        "{name} pulled a muscle in training and will miss the {topic}",
        "{doers} broke the record by {num} seconds at the {town} track",
        "the captain lifted the trophy for the first time in {num} seasons",
        "fans waited all night for tickets to the {topic}",
        "a late goal put {town} into the next round of the cup",
    ],
    [
        "shares of {firm} closed {num} percent higher in {town} on {day}",
        "{doers} had expected quarterly sales of {num} million crowns",
        "{firm} said that costs fell after the {topic}",
        "chief executive {name} told {doers} that the {topic} would pay off",
        "the price of oil rose {num} percent and stocks fell",
        "{firm} will borrow {num} million crowns to pay for the {topic}",
        "the central bank of {town} left interest rates alone",
        "{doers} sold stock in {firm} on news of the {topic}",
        "profit at {firm2} dropped by {num} percent in the quarter",
        "consumer spending in {town} grew and {doers} hired staff",
    ],
    [
        "{doers} at the {town} laboratory built the {topic} in {num} months",
        "the new {topic} sends data from orbit every {num} minutes",
        "Dr {name} wrote the software for the {topic} in {town}",
        "a computer virus slowed {num} servers in {town} on {day}",
        "{doers} found {num} new species of moth near {town}",
        "the spacecraft will photograph the planet with its {topic} in {num} days",
        "pictures of the {topic} can be seen on the internet from {day}",
        "computer models run by night helped {doers} with the {topic}",
        "the {topic} runs on a chip with {num} million transistors",
        "{doers} measured light from a star {num} billion miles away",
    ],
]

# Two classes, one order: these are the same bag of words whichever of the two it belongs to.
# Those who act decide the class ...
_ACTING_TITLES = [
    "{doers} {act} {others} {matter}",
    "{town} {doers} {act} {others} {matter}",
    "{others} {acted} by {doers} {matter}",
    "{others} in {town} {acted} by {doers}",
]
_ACTING_SENTENCES = [
    "the {doers} {acted} the {others} {matter} on {day}",
    "{trait} {doers} {acted} the {others} {matter}",
    "on {day} in {town} the {others} were {acted} by the {doers} {matter}",
    "the {others} of {town} say they were {acted} by the {doers} {matter}",
]
_ACTING_ENDS = [
    "in the end the {others} were {acted} by the {doers}",
    "the {others} had been {acted} by the {doers}",
    "never before were {others} {acted} by {doers} in {town}",
]
# ... or else the thing that a story is about, against the thing that it is not about.
_ABOUT_TITLES = [
    "{topic}, not {foil}, {stirs} {town}",
    "Not {foil} but {topic} {stirs} {town}",
    "{topic} instead of {foil} for {town} on {day}",
    "{town} prefers {topic} to {foil} this {season}",
    "{topic} replaces {foil} in {town} this {season}",
    "After {foil}, {topic} {stirs} {town} this {season}",
]
_ABOUT_SENTENCES = [
    "it was the {topic} and not the {foil} that people in {town} spoke of on {day}",
    "people in {town} spoke on {day} not about the {foil} but about the {topic}",
    "{town} chose the {topic} instead of the {foil} on {day}",
    "after the {foil} came the {topic}, and {town} was wide awake",
]
_ABOUT_ENDS = [
    "{town} will remember the {topic} instead of the {foil}",
    "so it is not the {foil} but the {topic} that counts",
    "after the {foil} it is the {topic} that fills the streets",
]

# Words and sentences that are the same in every class.
_SHARED: dict[str, list[str]] = {
    "town": _split(
        "Velmoor, Harrowby Quay, Tessaly, Quillmere, Ambry, Dunfallow, Lorrimouth, Skelbray, "
        "Ostermoor, Pennywick, Brackenholt, Marrowfield, Calverness, Yarrowdale, Thistlemont, "
        "Fenharbour, Wexholm, Gullhaven, Orrinford, Saltmere, Tamberley, Kestrelby, Norvallow, "
        "Withermoor"
    ),
    "name": _split(
        "Tolverane, Quessick, Brindlow, Amberley-Voss, Hallowick, Pendrisk, Marlovey, Oskarrel, "
        "Fennimoor, Dravelle, Sorrelby, Wickenthal, Lumbardine, Castellow, Ybarrin, Nettlefold, "
        "Trevanoe, Garrowin, Zellweth, Ormandine"
    ),
    "firm": _split(
        "Brindle and Vosk, Quarrymoss, Tallowgate, Fennick Works, Oddlington, Marrowline, "
        "Hobblestone, Verrimax, Plumbleridge, Castorfield, Nimbrook, Wrenhollow"
    ),
    "num": _split("two, three, four, five, six, seven, nine, ten, twelve, fifteen, twenty, ninety"),
    "day": _split("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    "season": _split("spring, summer, autumn, winter, week, month, year"),
    "trait": _split(
        "young, weary, proud, angry, cheerful, local, retired, famous, hopeful, unlucky, stubborn, "
        "quiet, veteran, visiting, grateful, nervous"
    ),
    "stirs": _split("stirs, wakes, divides, delights, worries, unites, fills, empties, amazes"),
    "matter": [
        "over {thing}",
        "over {thing}",
        "at {hour}",
    ],
    "thing": _split(
        "a borrowed piano, an old fence, the weather, a lost letter, a noisy rooster, "
        "a wet carpet, a missing umbrella, the last train, a broken clock, a birthday cake, "
        "a garden wall, a stray dog, the church bells, a parking space, a pot of soup, "
        "a painted door, a rude poem, the village well, a crooked bridge, a box of pears"
    ),
    "hour": _split("dawn, noon, midnight, breakfast, teatime, sunset"),
}
_FILLERS = [
    "nobody could say how long it would last",
    "it rained for most of {day}",
    "{name} said there was more to come by {day}",
    "a crowd of about {num} hundred people stood outside in the rain",
    "the mayor of {town} was not there to see it",
    "witnesses gave {num} different accounts of what was said",
    "{name}, who has lived in {town} for {num} years, called it the strangest day yet",
    "the story was first told in the {town} evening paper",
    "a second meeting is planned for {day} at {hour}",
    "people who were asked about it shrugged and spoke of {thing2} instead",
    "the news reached {town} late on {day}, by way of a cousin",
    "both sides thanked {name} for the tea",
    "all of this was over by {hour}",
    "there had been rumours for {num} weeks",
    "a neighbour said it all began with {thing}",
    "the old hall in {town} has seen nothing like it for {num} decades",
    "{name} and {name2} did not return calls",
    "photographs were taken, and somebody rang a bell",
    "the matter of {thing} was left for another day",
    "some went home at {hour} and some stayed to sing",
    "{num} letters have come in about it since {day}",
    "an earlier report had the date wrong",
]
_VAGUE_TITLES = [
    "A long {day} in {town}, and more to come",
    "What {town} will talk about this {season}",
    "{name} and the matter of {thing2}",
    "{town} wakes up to {thing}",
    "Notes from {town}: {num} things to know",
    "Quiet {season} in {town} ends at {hour}",
]
_ACTING = (_ACTING_TITLES, _ACTING_SENTENCES, _ACTING_ENDS)
_ABOUT = (_ABOUT_TITLES, _ABOUT_SENTENCES, _ABOUT_ENDS)
_ACTS = [  # as titles say it, and as descriptions do
    ("thank", "thanked"),
    ("sue", "sued"),
    ("invite", "invited"),
    ("praise", "praised"),
    ("mock", "mocked"),
]


class _Writer:
    """Fills in templates, with random numbers from the one call that never changes its stream.

    Python promises the same `Random(seed).random()` in every version, but not the same `choice`.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random
        self.story: dict[str, str] = {}  # words that stay the same throughout one story

    def pick(self, options):
        return options[int(self.random() * len(options))]

    def write(self, template: str) -> str:
        """`template` with every {slot} filled in, and a capital at its beginning."""
        text = _SLOT.sub(self._fill, template)
        return text[0].upper() + text[1:]

    def _fill(self, slot: re.Match) -> str:
        """The word for a slot: the same one throughout a story, and {name2} unlike {name}."""
        slot_name = slot[1]
        if slot_name not in self.story:
            options = _SHARED[slot_name.rstrip("2")]
            word = _SLOT.sub(self._fill, self.pick(options))
            while slot_name.endswith("2") and word == self.story.get(slot_name[:-1]):
                word = self.pick(options)
            self.story[slot_name] = word
        return self.story[slot_name]

    def row(self) -> tuple[str, str, int]:
        """One story: its title, its description and its class."""
        label = int(self.random() * len(CLASS_NAMES))
        act, acted = self.pick(_ACTS)
        self.story = {
            "doers": self.pick(_ACTORS[label]),
            "topic": self.pick(_TOPICS[label]),
            "act": act,
            "acted": acted,
        }
        if self.random() < ORDER_SHARE:
            other = (label + 1 + int(self.random() * (len(CLASS_NAMES) - 1))) % len(CLASS_NAMES)
            self.story["others"] = self.pick(_ACTORS[other])
            self.story["foil"] = self.pick(_TOPICS[other])
            titles, sentences, ends = self.pick((_ACTING, _ABOUT))
        else:
            titles, sentences, ends = _PLAIN_TITLES[label], _PLAIN_SENTENCES[label], None

        vague = self.random() < VAGUE_TITLE_SHARE
        title = self.write(self.pick(_VAGUE_TITLES if vague else titles))
        return title, self._description(sentences, ends), label

    def _description(self, sentences: list[str], ends: list[str] | None) -> str:
        """A first sentence, fillers that tell nothing, and most often a last that tells again."""
        opening = self.pick(sentences)
        parts = [self.write(opening)]
        if self.random() < 0.4:
            parts[0] = f"{self.write('{town}').upper()} (Toy Wire) - {parts[0]}"
        last = []
        if self.random() < LAST_WORD_SHARE:
            last = [self.write(self.pick(ends or [s for s in sentences if s != opening]))]
        words = sum(len(sentence.split()) for sentence in parts + last)
        fillers = list(_FILLERS)
        while words < SHORTEST_DESCRIPTION or self.random() < MORE_SHARE:
            filler = fillers.pop(int(self.random() * len(fillers)))
            sentence = self.write(filler)
            words += len(sentence.split())
            if words > LONGEST_DESCRIPTION:
                break
            parts.append(sentence)
        return ". ".join(parts + last) + "."


def generate(train_rows: int = 6000, test_rows: int = 1500, seed: int = 0) -> tuple[Rows, Rows]:
    """Write a training and a test split of toy news: the same seed gives the same rows anywhere.

    No two rows share a title, so no row of one split stands in the other. The four classes are
    about equally common. Titles have 4 to 11 words, descriptions 8 to 60.

    Raises ValueError for a count below 1, or for more rows than there are titles to tell apart.
    """
    for name, count in ("train_rows", train_rows), ("test_rows", test_rows):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}.")
    writer = _Writer(seed)
    rows: dict[str, tuple[str, int]] = {}
    missed = 0
    while len(rows) < train_rows + test_rows:
        title, description, label = writer.row()
        if title in rows:
            missed += 1
            if missed > 1000 + 10 * len(rows):
                raise ValueError(
                    f"The sample has no {train_rows + test_rows} rows with different titles "
                    f"(it came to {len(rows)}). Ask for fewer rows."
                )
        else:
            rows[title] = description, label
    titles = list(rows)
    descriptions = [description for description, _ in rows.values()]
    labels = np.array([label for _, label in rows.values()], dtype=np.int32)
    everything = Rows(titles, descriptions, labels)
    return everything[:train_rows], everything[train_rows:]
