"""A generated corpus in WikiText's layout: any size, the same bytes for the same seed on every machine.

One invented language for all seeds. Its words follow Zipf's law, and there is something to learn at every distance:

- each article has a topic, whose nouns are frequent in it, and a subject named in the title and repeated;
- each noun belongs to one of two classes, which its spelling does not show; the verb takes the ending of its
  subject's class, with other nouns in between, and after "It" that of the paragraph's subject, sentences back;
- an object's adjective is one of four that belong to the verb, quotations and parentheses are closed, and a life
  ends after it began.

Only whole numbers and NumPy's bit generators, whose streams NumPy keeps fixed, decide what is drawn.
"""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from newllm.config import SyntheticConfig
from newllm.data.text import SPLITS

UNKNOWN = "<unk>"
VERB_ENDINGS = ("ed", "on")  # of noun class 0 and 1

_NUM_TOPICS = 16
_TOPIC_NOUNS = 120
_NUM_NOUNS = 2_400
_NUM_ADJECTIVES = 600
_NUM_VERBS = 400
_NUM_NAMES = 6_000
_UNKNOWN_PCT = 62  # of the mentions of a name
_BLOCK = 4_096
_DETERMINERS = ("the", "a", "its", "this", "every", "no")
_PREPOSITIONS = ("in", "near", "after", "with", "from", "under", "against", "before", "during", "without")

_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "st", "br")
_SYLLABLES = ["".join(parts) for parts in product(_ONSETS, "aeiou", ("", "l", "n", "r"))]


def _invent(count: int, offset: int, ending: str) -> list[str]:
    """Distinct words, the first ones short; the stride is coprime to the numbers of words, so none comes twice."""
    two = len(_SYLLABLES) ** 2
    words = []
    for number in range(offset, offset + count):
        first, second = divmod(number * 7_919 % two, len(_SYLLABLES))
        words.append(_SYLLABLES[first] + _SYLLABLES[second] + ending)
    return words


_NOUNS = _invent(_NUM_NOUNS, 0, "o")
_ADJECTIVES = _invent(_NUM_ADJECTIVES, 10_000, "ic")
_STEMS = _invent(_NUM_VERBS, 20_000, "")
_VERBS = [[stem + ending for stem in _STEMS] for ending in VERB_ENDINGS]
_NAMES = [name.capitalize() for name in _invent(_NUM_NAMES, 30_000, "a")]
# Every topic has its own nouns first and then those of the whole language.
_TOPICS: list[list[int]] = [
    [*range(topic, _TOPIC_NOUNS * _NUM_TOPICS, _NUM_TOPICS), *range(_NUM_NOUNS)] for topic in range(_NUM_TOPICS)
]


def synthetic_rows(config: SyntheticConfig, split: str) -> Iterator[str]:
    """The rows of a split: `config.train_words` words and a tenth each for validation and test, or a sentence more.

    The splits of one seed, and different seeds, are drawn from different streams.
    """
    size = config.train_words if split == "train" else config.train_words // 10
    writer = _Writer(config.seed, SPLITS.index(split))
    words = 0
    while words < size:
        for row in writer.article(size - words):
            yield row
            words += len(row.split())


def _noun_class(noun: int) -> int:
    """0 or 1, alternating among the nouns of every topic."""
    return noun // _NUM_TOPICS % 2


def _zipf(count: int, offset: int = 2) -> list[int]:
    """Weights that fall as 1 / (rank + offset), in whole numbers."""
    return [10**9 // (rank + offset) for rank in range(count)]


class _Draws:
    """Independent streams of numbers, one for each use, so that no draw depends on how another is made."""

    def __init__(self, *key: int) -> None:
        self._key = key
        self._streams = 0

    def __call__(self, weights: list[int]) -> Iterator[int]:
        """Endless numbers from 0 below len(weights), in proportion to the weights."""
        bits = np.random.PCG64(np.random.SeedSequence([*self._key, self._streams]))
        self._streams += 1
        return self._numbers(bits, np.cumsum(np.array(weights, dtype=np.uint64)))

    @staticmethod
    def _numbers(bits: np.random.PCG64, thresholds: np.typing.NDArray[np.uint64]) -> Iterator[int]:
        while True:
            raw = bits.random_raw(_BLOCK) % thresholds[-1]
            yield from np.searchsorted(thresholds, raw, side="right").tolist()


class _Writer:
    """Writes articles one after the other from the streams of one split."""

    def __init__(self, seed: int, split: int) -> None:
        draw = _Draws(seed, split)
        # Half of the nouns are the topic's own.
        own, all_ = _zipf(_TOPIC_NOUNS), _zipf(_NUM_NOUNS)
        self.nouns = draw([weight * sum(all_) // sum(own) for weight in own] + all_)
        self.verbs = draw(_zipf(_NUM_VERBS))
        self.adjectives = draw(_zipf(_NUM_ADJECTIVES))
        self.near = draw(_zipf(4))
        self.names = draw(_zipf(_NUM_NAMES, offset=20))
        self.percents = draw([1] * 100)
        self.prepositions = draw(_zipf(len(_PREPOSITIONS)))
        self.years = draw([1] * 220)
        self.small = draw(_zipf(90))
        self.thousandths = draw([1] * 1_000)
        self.determiners = draw(_zipf(len(_DETERMINERS), offset=1))
        self.kinds = draw([4, 4, 3, 3, 2, 2, 1, 1])
        self.topics = draw(_zipf(_NUM_TOPICS, offset=8))
        self.sections = draw([1] * 5)
        self.sentences = draw([1] * 7)
        self.topic = _TOPICS[0]
        self.subject = 0
        self.title = ""
        self.title_class = 0

    def article(self, limit: int) -> Iterator[str]:
        """The rows of an article; it ends with the sentence that reaches `limit` words."""
        self.topic = _TOPICS[next(self.topics)]
        name = next(self.names)
        self.title, self.title_class = f"{_NAMES[name]} {_NAMES[next(self.names)]}", name % 2
        yield ""
        yield f"= {self.title} ="
        yield ""
        left = limit - 4
        for section in range(1 + next(self.sections)):
            if section:
                depth = " ".join("=" * (2 + next(self.percents) // 70))
                heading = f"{depth} {self.noun().capitalize()} {depth}"
                yield ""
                yield heading
                yield ""
                left -= heading.count(" ") + 1
            for _ in range(1 + next(self.sections)):
                paragraph, num_words = self.paragraph(left)
                yield paragraph
                left -= num_words
                if left <= 0:
                    return

    def paragraph(self, limit: int) -> tuple[str, int]:
        """A paragraph about one subject, and its number of words."""
        self.subject = self.topic[next(self.nouns)]
        sentences = [self.opening()]
        num_words = sentences[0].count(" ") + 1
        for _ in range(2 + next(self.sentences)):
            if num_words >= limit:
                break
            sentence = _SENTENCES[next(self.kinds)](self)
            sentences.append(sentence)
            num_words += sentence.count(" ") + 1
        return " ".join(sentences), num_words

    def noun(self) -> str:
        return _NOUNS[self.topic[next(self.nouns)]]

    def thing(self) -> str:
        return f"{_DETERMINERS[next(self.determiners)]} {self.noun()}"

    def name(self) -> str:
        return UNKNOWN if next(self.percents) < _UNKNOWN_PCT else _NAMES[next(self.names)]

    def action(self, noun_class: int) -> str:
        """A verb that agrees with its subject, and its object with an adjective that suits the verb."""
        verb = next(self.verbs)
        adjective = _ADJECTIVES[(verb * 37 + next(self.near)) % _NUM_ADJECTIVES]
        return f"{_VERBS[noun_class][verb]} {_DETERMINERS[next(self.determiners)]} {adjective} {self.noun()}"

    def opening(self) -> str:
        """Names the subject; the noun between it and its verb has a class of its own."""
        return (
            f"The {_NOUNS[self.subject]} of {self.thing()} {self.action(_noun_class(self.subject))} of {self.name()} ."
        )

    def pronoun(self) -> str:
        noun_class = _noun_class(self.subject)
        return f"It {self.action(noun_class)} , and {self.action(noun_class)} ."

    def subject_again(self) -> str:
        place = _PREPOSITIONS[next(self.prepositions)]
        adjective = _ADJECTIVES[next(self.adjectives)]
        return (
            f"The {adjective} {_NOUNS[self.subject]} , which was {place} {self.thing()} of {self.name()} , "
            f"{self.action(_noun_class(self.subject))} ."
        )

    def life(self) -> str:
        year = 1_750 + next(self.years)
        place = _PREPOSITIONS[next(self.prepositions)]
        return (
            f"{self.title} ( {year} – {year + 1 + next(self.small)} ) {self.action(self.title_class)} {place} "
            f"{self.name()} and {self.name()} ."
        )

    def quotation(self) -> str:
        other = self.topic[next(self.nouns)]
        noun_class = _noun_class(other)
        return (
            f'" The {_NOUNS[other]} {self.action(noun_class)} , " said {self.name()} of {self.name()} , '
            f'" and it {self.action(noun_class)} . "'
        )

    def date(self) -> str:
        other = self.topic[next(self.nouns)]
        year = 1_750 + next(self.years)
        return f"In {year} , a {_NOUNS[other]} from {self.name()} {self.action(_noun_class(other))} ."

    def belief(self) -> str:
        return f"{self.name()} 's {self.noun()} was not {_ADJECTIVES[next(self.adjectives)]} {self.place()} ."

    def counting(self) -> str:
        number = f"{1 + next(self.small)} @,@ {next(self.thousandths):03}"
        share = f"{1 + next(self.small)} @.@ {next(self.percents) % 10} %"
        return f"There were {number} {self.noun()} {self.place()} and {share} of {self.thing()} ."

    def place(self) -> str:
        return f"{_PREPOSITIONS[next(self.prepositions)]} {self.thing()} ( {self.name()} )"


_SENTENCES: tuple[Callable[[_Writer], str], ...] = (
    _Writer.pronoun,
    _Writer.subject_again,
    _Writer.life,
    _Writer.quotation,
    _Writer.date,
    _Writer.belief,
    _Writer.counting,
    _Writer.opening,
)
