"""The Try it tab's answers are those of the merge as anybody else makes it; visitors' texts are kept by nobody."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from builders import one_sentence

from merging import MergeError
from merging.diagnostics.leave_out import merging_with
from merging.evaluation.accuracy import Estimate
from merging.experiments.sweep import ALONE, marks_of
from merging.features.progress import Progress
from merging.models.layers import working_copy
from merging.playground import leave_one_out, predictions, question_of, up_to_layer, weights_by_task
from merging.recipes.spec import MergeSpec
from merging.services.limits import LIMITS
from merging.services.playground import Playground, texts_of
from merging.services.settings import Settings
from merging.services.workbench import Workbench

POOL, TASK = "papers", "trec"
TEXTS = ["Where is the Louvre?", "WIN a free prize, call now 😀", "مرحبا بالعالم"]


@pytest.fixture(scope="module")
def ground() -> Playground:
    return Playground(Workbench())


def settings(method: str, scaling: float = 0.4) -> Settings:
    spec = MergeSpec.of(method, orthogonalize="off", weights=(1, 0.5, 1, 1, 0, 1, 1, 2))
    return Settings(POOL, spec if spec.scaling is None else spec.with_params(scaling=scaling))


def model_of(ground: Playground):
    model, tokenizer = ground.workbench.base()
    return working_copy(model, ground.workbench.modules(POOL)), tokenizer


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "emr", "do_merging"])
def test_a_moved_slider_says_what_that_merge_says(method: str, ground: Playground) -> None:
    now = settings(method)
    frame = ground.said(POOL, TEXTS, {"base": None, "own": None, "merge": now})
    model, tokenizer = model_of(ground)
    questions = [question_of(a, ground.workbench.lab.task(a.task)) for a in ground.workbench.adapters(POOL)]
    sources = {"merge": weights_by_task(ground.workbench.merged(now), ground.workbench.tasks(POOL))}
    exact = predictions(model, tokenizer, TEXTS, questions, sources)
    mine = frame[frame.source == "merge"]
    assert mine.probability.to_numpy() == pytest.approx(exact.probability.to_numpy(), abs=1e-5)
    assert list(frame.task.unique()) == ground.workbench.tasks(POOL)


def test_leave_one_out_is_that_of_merges_made_anew_bit_for_bit(ground: Playground) -> None:
    now = settings("do_merging")
    steps = list(ground.leave_one_out(now, TEXTS[0], TASK))
    assert all(isinstance(step, Progress) for step in steps[:-1])
    adapters, spec = ground.workbench.adapters(POOL), now.spec
    options = {**spec.values, "orthogonalize": spec.orthogonalize, "decouple": spec.decouple}
    merge_of = merging_with(adapters, spec.method, spec.weights, **options)
    model, tokenizer = model_of(ground)
    question = ground.questions(POOL)[TASK]
    expected = leave_one_out(model, tokenizer, TEXTS[:1], question, adapters, merge_of)
    assert steps[-1].equals(expected)


def test_layers_story_and_loudness_agree_with_what_the_merge_says(ground: Playground) -> None:
    now = settings("task_arithmetic")
    said = ground.said(POOL, TEXTS[:1], {"merge": now})
    mine = said[said.task == TASK].probability.to_numpy()
    layers = ground.layers(now, TEXTS[0], TASK)
    assert layers[layers.layer == "5"].probability.to_numpy() == pytest.approx(mine, abs=1e-6)
    story = ground.over_scaling(now, TEXTS[0], TASK)
    assert story[story.scaling == 0.4].probability.to_numpy() == pytest.approx(mine, abs=1e-6)
    loud = ground.loudness(now, TEXTS[0], TASK)
    assert (loud[loud.adapter == TASK].ratio == 1).all()
    assert (loud[loud.adapter == "tweets3"].ratio == 0).all(), "its weight is 0"
    model, tokenizer = model_of(ground)
    whole = ground.weights(now)[TASK]
    assert layers.equals(up_to_layer(model, tokenizer, TEXTS[:1], ground.questions(POOL)[TASK], whole))
    with pytest.raises(MergeError) as refused:
        ground.over_scaling(settings("average"), TEXTS[0], TASK)
    assert one_sentence(refused.value, "λ")


def test_what_broke_is_a_recount_of_the_evaluations(ground: Playground) -> None:
    now, limit = settings("task_arithmetic", 1.0), 24
    truth = ground.rows(POOL, TASK, limit)[1]
    marks = {e.task: e.marks for e in ground.workbench.evaluate(now, limit) if isinstance(e, Estimate)}
    *steps, merged = ground.outcome(POOL, now, TASK, limit)
    assert all(isinstance(step, Progress) for step in steps)
    assert "".join(str(int(a == b)) for a, b in zip(merged.predicted, truth, strict=True)) == marks[TASK]
    *_, own = ground.outcome(POOL, None, TASK, limit)
    shipped = marks_of(ground.workbench._known_tests(POOL), ALONE, rows=limit)[TASK]
    assert [float(a == b) for a, b in zip(own.predicted, truth, strict=True)] == shipped.tolist()


def test_examples_and_random_rows_are_test_rows_with_their_truth(ground: Playground) -> None:
    test = ground.workbench.lab.task(TASK).test
    known = {" ".join(text.split()): label for text, label in zip(test.texts, test.labels, strict=True)}
    text, truth = ground.row(POOL, TASK, seed=3)
    assert ground.questions(POOL)[TASK].labels[known[text]] == truth
    assert ground.row(POOL, TASK, seed=3) == (text, truth)
    examples = ground.examples(POOL)
    assert {task for task, _ in examples} == set(ground.workbench.tasks(POOL))
    assert all(text in known for task, text in examples if task == TASK)


def test_what_is_not_read_is_said(ground: Playground) -> None:
    assert ground.reads(POOL, "short") == {}
    assert ground.reads(POOL, "word " * 100)[TASK] == (64, 102)


def test_ten_thousand_characters_are_read_as_far_as_the_tasks_read(ground: Playground) -> None:
    long = ("the merge of all " * 600)[:10_000]
    frame = ground.said(POOL, texts_of(long), {"base": None})
    head = ground.said(POOL, [" ".join(long.split()[:62])], {"base": None})
    assert frame.probability.to_numpy() == pytest.approx(head.probability.to_numpy(), abs=1e-6)


def test_lines_are_texts_and_too_much_is_refused() -> None:
    assert texts_of("") == texts_of(" \n\t\n") == []
    assert texts_of(" one \n\n two <b>three</b>\r\n") == ["one", "two <b>three</b>"]
    for written, word in [
        ("x" * (LIMITS.text_characters + 1), "characters"),
        ("x\n" * (LIMITS.texts + 1), "lines"),
        ("\ud800", "half"),
    ]:
        with pytest.raises(MergeError) as refused:
            texts_of(written)
        assert one_sentence(refused.value, word)


def test_nothing_of_a_text_is_kept_or_logged(ground: Playground, caplog: pytest.LogCaptureFixture) -> None:
    now = settings("task_arithmetic")

    def kept() -> str:
        return repr([list(cache._kept.items()) for cache in ground.workbench._caches])

    with caplog.at_level(logging.DEBUG):
        ground.said(POOL, ["xylophonequark"], {"base": None, "merge": now})
        list(ground.leave_one_out(now, "xylophonequark", TASK))
        ground.over_scaling(now, "xylophonequark", TASK)
        ground.loudness(now, "xylophonequark", TASK)
    assert "xylophonequark" not in kept()
    assert "xylophonequark" not in caplog.text


def test_two_visitors_at_once_get_their_own_answers(ground: Playground) -> None:
    texts = [f"Who was number {i}?" for i in range(6)]
    who = {"own": None, "merge": settings("task_arithmetic")}
    alone = [ground.said(POOL, [text], who) for text in texts]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda text: ground.said(POOL, [text], who), texts))
    assert all(a.equals(b) for a, b in zip(alone, together, strict=True))
