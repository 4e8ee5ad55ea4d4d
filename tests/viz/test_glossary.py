"""Every word of a label that is not plain English is explained, once."""

import re
from collections import Counter

import gradio as gr
import pytest
from gradio.components.api_component import Api
from test_component import demo  # noqa: F401  (a fixture)

from merging.methods import METHODS
from merging.plugins import PLUGINS
from merging.services.lessons import shipped_lessons
from merging.tasks.task import DEFAULT_TASKS, Task
from viz.figures.theme import DIVERGING, ON_SCALE, SEQUENTIAL
from viz.figures.validation import TITLES as MEASURES
from viz.panels.diagnose.bundle import METRICS
from viz.panels.diagnose.layout import TITLES as LINKED
from viz.panels.kit.glossary import as_json, glossary, katex
from viz.panels.kit.plot import ASSETS
from viz.panels.osrm.layout import TITLES as TRAINED

WORDS = """
a across adapted add after against all alone an and answer any are as at automatic base's be best bring brings by
change choices choose column columns compare configuration csv data diagnose distance disturbs download each exact
examples export factor figure file files for format from frozen full hub id in input inputs inside is it its jsonl
keeps kept label labels layer likeliest limit line link list load log₁₀ look looked may merge merged merges most
movie name news newspaper no number of on one only optional or others others' ours output own pairs paste per
picture polarity private product question repository row rows s say says search second seconds sees sentiment set
sets size sms spam split start step steps sum table tables test text texts that the their them they this time to
tone topic train trained training truncation try tsv tweet type up user validation weakest what whatever where which
who whom with within without word worst yaml you your zip
"""
PLAIN = set(WORDS.split())
"""Words of labels that need no explanation."""
RARE = """
alike arrow arrows caption chooses climb columns dashed default differ differs disturbs dotted favours flips
foretell forty improves inputs matrices merges multiplied nudge outputs quietest reproduced scaled shapes shorten
shortens spans squared theorem unequal unlabelled
"""
"""Words of lessons that need none either, though the tasks' texts hardly use them."""
LABELS = [
    *(param.label for method in METHODS.values() for param in method.params),
    *(param.label for plugin in PLUGINS.values() for param in plugin.params),
    *(measure.name for measure in MEASURES.values()),
    *(metric["title"] for metric in METRICS.values()),
    *LINKED.values(),
    *TRAINED.values(),
]


def explained(label: str) -> set[str]:
    """Take the names of the glossary out of a label, the longest first; give the words that are left."""
    names = sorted((name.lower() for term in glossary() for name in term.names), key=len, reverse=True)
    rest = label.lower()
    for name in names:
        rest = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", " ", rest)
    return set(re.findall(r"[^\W\d_][\w'₀-₉]*", rest)) - PLAIN


@pytest.mark.parametrize("label", sorted(set(LABELS)))
def test_a_label_has_plain_words_and_terms_of_the_glossary(label: str) -> None:
    assert explained(label) == set()


def test_so_has_every_control(demo: gr.Blocks) -> None:  # noqa: F811
    shown = [block for block in demo.blocks.values() if not isinstance(block, Api)]  # what programs give
    controls = [block for block in shown if isinstance(block, gr.components.Component)]
    unexplained = {str(block.label): explained(str(block.label)) for block in controls if getattr(block, "label", None)}
    assert {label: words for label, words in unexplained.items() if words} == {}


def test_a_lesson_has_everyday_words_and_terms_of_the_glossary() -> None:
    """Everyday are the words of news, reviews and tweets: what the tasks' training texts say five times."""
    said = Counter(word for name in DEFAULT_TASKS for text in Task.load(name).train.texts for word in words(text))
    names = sorted((name.lower() for term in glossary() for name in term.names), key=len, reverse=True)
    steps = [step for lesson in shipped_lessons() for step in lesson.steps]
    guesses = [step.guess.question for step in steps if step.guess]
    texts = guesses + [f"{step.title}. {step.say} {step.do or ''} {step.happened}" for step in steps]
    rest = re.sub(r"\{[^}]*\}|\[\[\w+\]\]", " ", " ".join(texts)).lower()  # what is filled with numbers
    for name in names:
        rest = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", " ", rest)
    assert {word for word in words(rest) if said[word] < 5} - set(RARE.split()) == set()


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def test_a_name_is_explained_once() -> None:
    names = Counter(name.lower() for term in glossary() for name in term.names)
    assert [name for name, count in names.items() if count > 1] == []


def test_no_sentence_is_long_and_none_is_a_formula() -> None:
    for term in glossary():
        assert all(len(sentence.split()) <= 25 for sentence in re.split(r"(?<=\.) ", term.says)), term.names
        assert term.says.endswith("."), term.names


def test_the_page_gets_it_as_a_script_that_nothing_ends() -> None:
    assert "<" not in as_json()
    assert katex(), "Gradio no longer ships KaTeX under this name: formulas are shown as they are written"
    assert (ASSETS / "glossary.yaml").is_file()


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scale", [SEQUENTIAL, DIVERGING])
def test_numbers_can_be_read_on_every_colour_of_a_heat_map(scale: list[list]) -> None:
    """Contrast as WCAG defines it, 4.5 : 1; between two stops a colour is not darker than the darker of them."""
    for _, colour in scale:
        assert (luminance(colour) + 0.05) / (luminance(ON_SCALE) + 0.05) >= 4.5
