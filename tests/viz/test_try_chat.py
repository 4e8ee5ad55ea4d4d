"""The chat's handlers on a small language model: everybody answers, stop stops, text is text, visitors are apart."""

import logging
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from builders import WORDS, _seeded, peft_folder, tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from merging import Adapter
from merging.features.store import TextsOf
from merging.playground import generate, weights_of
from merging.playground.chat import ANSWER, PROMPT, Decoding
from merging.playground.weights import BASE
from merging.recipes.spec import MergeSpec
from merging.services.chat import OWN, Chat
from merging.services.playground import Playground
from merging.services.settings import Settings
from merging.services.workbench import Workbench
from viz.panels.try_it.chat import MOST_TURNS, ChatHandlers
from viz.panels.try_it.session import TrySession

POOL = "guest-chat-pool"
VERBALISER = {"template": "no {text} here", "words": {"cat": " the old cat", "dog": " dog"}}
ASKED = "the old cat sings"
DEFAULTS = (0.0, 6, 0, False)
HTML = '<img src=x onerror="alert(1)"><b>cat</b>'


def language_model():
    size = {"vocab_size": 5 + len(WORDS), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(**size, intermediate_size=64, max_position_embeddings=300, eos_token_id=None, pad_token_id=0)
    return _seeded(lambda: LlamaForCausalLM(config), 0, "tiny-writer")


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatHandlers]:
    """A visitor's pool of two adapters on a small llama, one of which answers in words."""
    root, bench, folders = tmp_path_factory.mktemp("chat"), Workbench(), {}
    language_model().save_pretrained(root / "base")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}today {{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(root / "base")
    for seed, task in enumerate(("trec", "sms_spam")):
        options = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj", "v_proj"]}
        peft_folder(root / f"peft-{task}", language_model(), seed=seed, **options)
        adapter = Adapter.load(root / f"peft-{task}", name=task, task=task, base=str(root / "base"))
        if task == "trec":
            adapter = replace(adapter, metadata=adapter.metadata.changed(verbaliser=VERBALISER))
        folders[task] = str(adapter.save(root / task))
    texts = TextsOf(tuple(folders), ("q_proj", "v_proj"), str(root / "base"))
    bench.add_pool(POOL, "Writers", folders, texts, measured=False)
    yield ChatHandlers(Chat(Playground(bench)))
    bench.remove_pool(POOL)


@pytest.fixture
def session() -> TrySession:
    return visitor()


def visitor() -> TrySession:
    merge, pinned = (MergeSpec.of(method, weights=(1, 1)) for method in ("task_arithmetic", "ties"))
    return TrySession(settings=Settings(POOL, merge), pinned=("TIES", Settings(POOL, pinned)), task="trec")


def answered(panel: ChatHandlers, session: TrySession, written: str = ASKED, *settings) -> dict[str, str]:
    values = panel.begin(session, written, *(settings or DEFAULTS))
    for step in panel.answer(session):
        values |= step
    return values


def test_only_pools_whose_base_writes_have_a_chat(panel: ChatHandlers, session: TrySession) -> None:
    assert panel.shown(session)
    assert panel.chat.writes("smollm2")
    assert not panel.chat.writes("papers")
    assert not panel.shown(TrySession())


def test_everybody_answers_the_same_prompt(panel: ChatHandlers, session: TrySession) -> None:
    values = answered(panel, session)
    turn = session.talk.turns[-1]
    assert list(turn.answers) == ["base", f"{OWN}trec", f"{OWN}sms_spam", "merge", "pinned"]
    model, desk = language_model(), panel.chat._desk(POOL)
    adapters = panel.workbench.adapters(POOL)
    sets = {"base": BASE, **{f"{OWN}{a.task}": weights_of(a) for a in adapters}}
    sets["merge"] = weights_of(panel.workbench.merged(session.settings))
    *_, expected = generate(model, desk.tokenizer, panel.chat.prompt(POOL, ASKED, False), sets, Decoding(most=6))
    assert {name: turn.answers[name] for name in sets} == expected
    assert len({answer.text for answer in turn.answers.values()}) > 2
    for answer in turn.answers.values():
        assert f'<p dir="auto">{answer.text.strip()}</p>' in values["turns"]
    assert "5 have answered" in values["status"]
    assert re.search(r"[\d.]+ tokens/s each", values["status"])
    assert 'role="status"' in values["status"]


def test_the_label_words_of_the_task_are_weighed_for_everybody(panel: ChatHandlers, session: TrySession) -> None:
    values = answered(panel, session)
    turn = session.talk.turns[-1]
    assert set(turn.labels) == set(turn.answers)
    assert all(sum(p for _, p in labels) == pytest.approx(1) for labels in turn.labels.values())
    assert values["turns"].count("question type: ") == 5
    session.task = "sms_spam"
    answered(panel, session)
    assert session.talk.turns[-1].labels == {}, "an adapter without words"


def test_a_text_of_the_panel_is_asked_as_its_task_asks_it(panel: ChatHandlers, session: TrySession) -> None:
    assert 'role="alert"' in panel.take(session)[1]["status"]
    session.texts = ("blue bird",)
    assert panel.take(session) == ("no blue bird here", {})
    session.task = "sms_spam"
    assert panel.take(session) == ("blue bird", {})


def test_stop_stops_and_leaves_what_was_written(panel: ChatHandlers, session: TrySession, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("viz.panels.try_it.chat.PAUSE", 0)
    panel.begin(session, ASKED, 0.0, ANSWER, 0, False)
    steps = panel.answer(session)
    while session.talk.turns[-1].state != "answering":
        next(steps)
    model = panel.chat._desk(POOL).model
    hook = model.register_forward_pre_hook(lambda *_: asked.append(1))
    values = panel.stop(session)
    assert "Stopped" in values["status"]
    assert list(steps) == []
    hook.remove()
    assert not panel.chat._desk(POOL).lock.locked()
    assert len(asked) <= 1, "at most the token that was being computed"
    turn = session.talk.turns[-1]
    assert turn.state == "stopped"
    assert 0 < len(turn.answers["base"].tokens) < ANSWER
    assert "cut here" in values["turns"]
    assert list(panel.answer(session)) == [], "it does not begin again"


def test_a_later_prompt_ends_the_answers_to_the_last(panel: ChatHandlers, session: TrySession, monkeypatch) -> None:
    monkeypatch.setattr("viz.panels.try_it.chat.PAUSE", 0)
    panel.begin(session, ASKED, 0.0, ANSWER, 0, False)
    steps = panel.answer(session)
    next(steps)
    answered(panel, session, "no bird")
    assert list(steps) == []
    assert [turn.state for turn in session.talk.turns] == ["stopped", "done"]


def test_markup_stays_text(panel: ChatHandlers, session: TrySession) -> None:
    values = answered(panel, session, HTML)
    assert not re.search(r"<(img|b)\b", values["turns"])
    assert "&lt;img src=x" in values["turns"]


@pytest.mark.parametrize("written", ["", " \n", "cat " * PROMPT, "\ud800 cat"])
def test_what_cannot_be_asked_is_said_in_a_sentence(panel: ChatHandlers, session: TrySession, written: str) -> None:
    values = answered(panel, session, written)
    assert 'role="alert"' in values["status"]
    assert session.talk.turns == []


@pytest.mark.parametrize("written", ["😀 cat", "مرحبا بالعالم", "猫は寝る", "a\n\nb"])
def test_other_alphabets_are_answered(panel: ChatHandlers, session: TrySession, written: str) -> None:
    assert "have answered" in answered(panel, session, written)["status"]


def test_the_settings_are_taken_and_wrong_ones_said(panel: ChatHandlers, session: TrySession) -> None:
    hot = answered(panel, session, ASKED, 1.5, 12, 3, True)
    assert "at most 12 tokens, temperature 1.5, seed 3, chat template" in hot["turns"]
    first = session.talk.turns[-1]
    answered(panel, session, ASKED, 1.5, 12, 3, True)
    assert session.talk.turns[-1].answers == first.answers
    answered(panel, session, ASKED, 1.5, 12, 4, True)
    assert session.talk.turns[-1].answers != first.answers
    assert panel.chat.prompt(POOL, ASKED, True).text == f"today {ASKED}"
    assert 'role="alert"' in panel.begin(session, ASKED, 9.0, 6, 0, False)["status"]


def test_old_prompts_go_and_clearing_forgets_all(panel: ChatHandlers, session: TrySession) -> None:
    for place in range(MOST_TURNS + 2):
        answered(panel, session, f"cat number{place}", 0.0, 1, 0, False)
    assert len(session.talk.turns) == MOST_TURNS
    assert panel.clear(session) == {"turns": "", "status": ""}
    assert session.talk.turns == []


def test_visitors_are_apart_and_nothing_is_kept_or_logged(panel: ChatHandlers, caplog) -> None:
    mine, yours = visitor(), visitor()
    with caplog.at_level(logging.DEBUG):
        first = panel.begin(mine, "xylophonequark", *DEFAULTS)
        steps = panel.answer(mine)
        next(steps)
        other = answered(panel, yours, ASKED)
        for step in steps:
            first |= step
    assert "xylophonequark" in first["turns"]
    assert "xylophonequark" not in other["turns"]
    assert ASKED not in first["turns"]
    alone = visitor()
    answered(panel, alone, ASKED)
    assert alone.talk.turns[-1].answers == yours.talk.turns[-1].answers
    kept = repr([list(cache._kept.items()) for cache in panel.workbench._caches])
    assert "xylophonequark" not in kept + caplog.text
    mine.close()
    assert mine.talk.turns == []
    assert yours.talk.turns


def test_a_visitor_who_leaves_stops_the_answers(panel: ChatHandlers, session: TrySession, monkeypatch) -> None:
    monkeypatch.setattr("viz.panels.try_it.chat.PAUSE", 0)
    panel.begin(session, ASKED, 0.0, ANSWER, 0, False)
    steps = panel.answer(session)
    next(steps)
    session.close()
    assert list(steps) == []


def test_the_global_random_numbers_are_left_alone(panel: ChatHandlers, session: TrySession) -> None:
    before = torch.get_rng_state()
    answered(panel, session, ASKED, 1.0, 6, 1, False)
    assert torch.equal(before, torch.get_rng_state())
