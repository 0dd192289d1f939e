"""Words: how text becomes the stems that are indexed, searched and compared. No I/O."""

from __future__ import annotations

import functools
import re

MAX_ORDINARY_LETTERS = 40  #: of a word; longer ones are neither cached nor cut in two

_WORD = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_VOWEL = re.compile(r"[aeiouy]")
_IRREGULAR = {"used": "us", "using": "us", "use": "us", "uses": "us"}
#: Endings and the fewest letters that must be left; `tion` and `sion` leave their first letter.
_SUFFIXES = (("ation", 5), ("tion", 3), ("sion", 3), ("ing", 3), ("ed", 3), ("ly", 4))
_NO_PLURAL = ("ss", "us", "is", "as")

#: Words that carry no topic; they are never searched for.
STOP_WORDS = frozenset(
    """
    a about above after again against all also although am among an and any anyone anything are as
    at be because been before being below between both but by can could couldn d did do does doesn
    doing don done down during each either else etc ever every for from further go goes had has hasn
    have haven
    having he her here hers him his how however i if in into is isn it its itself just ll m may me
    might more most much must my myself neither no nor not now of off on once one ones only or other
    our out over own per please quite rather re s same shall she should shouldn since so some
    someone something still such t than that the their them themselves then there these they this
    those though through thus to too toward under until up upon us ve versus very via was wasn we
    well were what whatever when where whether which while who whom whose why will with within
    without won would wouldn yes yet you your yours
    """.split()
)

#: Words that say little about the topic of a question; they count, but not for much.
WEAK_WORDS = frozenset(
    """
    affect affects behave behaves behavior behaviour best better called cause causes code compare
    consider correct correctly describe detail details differ difference different difficult exactly
    example examples explain explanation find general get gets give given good happen happens help
    important involve involved involves keep kind know let like list look main make makes many mean
    means meaning need needed needs occur occurs part people person possible problem problems
    program programs proper properly provide purpose python question right role safe safely say
    show sort step steps take tell thing things together try type types typical typically
    understand use used useful user users uses using usually want way ways work working works wrong
    """.split()
)

#: Pronouns that point back to the topic of an earlier clause.
PRONOUNS = frozenset("it its itself they them their theirs this that these those one ones".split())


def stem(word: str) -> str:
    """Return the form under which `word` and its inflections meet; `word` is lower case."""
    return _cached_stem(word) if len(word) <= MAX_ORDINARY_LETTERS else _stem(word)


def _stem(word: str) -> str:
    if len(word) < 3 or not word.isalpha():
        return word
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith("sses"):
        word = word[:-2]
    elif word.endswith("s") and len(word) > 3 and not word.endswith(_NO_PLURAL):
        word = word[:-1]
    if word.endswith("ied") and len(word) > 4:
        word = word[:-3] + "y"
    for suffix, shortest in _SUFFIXES:
        rest = word[: -len(suffix)]
        if word.endswith(suffix) and len(rest) >= shortest and _VOWEL.search(rest):
            word = rest + ("t" if suffix == "tion" else "s" if suffix == "sion" else "")
            break
    if word.endswith("e") and len(word) > 3:
        word = word[:-1]
    if len(word) > 4 and word.endswith("is"):
        word = word[:-1] + "z"  # customise, customize
    elif len(word) > 4 and word.endswith("our"):
        word = word[:-2] + "r"  # colour, color
    if len(word) > 2 and word[-1] == word[-2] and word[-1] not in "aeiousz":
        word = word[:-1]
    return word


def _stems_of(raw: str) -> tuple[str, ...]:
    parts = [part for part in _CAMEL.split(raw) if part]
    return tuple(stem(part.lower()) for part in parts)


_cached_stem = functools.lru_cache(maxsize=200_000)(_stem)
_cached_stems_of = functools.lru_cache(maxsize=200_000)(_stems_of)


def words(text: str) -> list[str]:
    """Return the words of `text` as written, identifiers split at underscores."""
    return _WORD.findall(text)


def stems(text: str) -> list[str]:
    """Return the stems of `text` in order; `ZipFile` and `zip_file` both give two."""
    found: list[str] = []
    for raw in _WORD.findall(text):
        cached = len(raw) <= MAX_ORDINARY_LETTERS
        found.extend(_cached_stems_of(raw) if cached else _stems_of(raw))
    return found


def count_run(tokens: list[str], run: tuple[str, ...]) -> int:
    """Count the places where `run` occurs in `tokens` as consecutive items."""
    if len(run) == 1:
        return tokens.count(run[0])
    first, size = run[0], len(run)
    return sum(
        1
        for at, token in enumerate(tokens)
        if token == first and tuple(tokens[at : at + size]) == run
    )


def places_of_run(tokens: list[str], run: tuple[str, ...]) -> list[int]:
    """Return the positions in `tokens` at which `run` begins."""
    size = len(run)
    return [
        at
        for at, token in enumerate(tokens)
        if token == run[0] and (size == 1 or tuple(tokens[at : at + size]) == run)
    ]
