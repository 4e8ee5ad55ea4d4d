"""``mergescope try`` and ``mergescope broke``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import MergeError
from ..io.whole import whole_file
from .adapters import loaded
from .options import Base
from .recipes import features_of, opened, recipe_of

if TYPE_CHECKING:
    from torch import nn

    from ..adapters.adapter import Adapter
    from ..features.moments import Features
    from ..playground.questions import Question
    from ..playground.rows import Outcome
    from ..recipes.spec import MergeSpec

SHOWN = 120
"""Signs of a text that a table shows."""


def try_text(
    inputs: Annotated[list[str], typer.Argument(help="Adapters (folders, zip files or hub ids), or one recipe.yaml.")],
    text: Annotated[list[str], typer.Option(help="A text to answer; may be given again.")],
    method: Annotated[
        str | None, typer.Option(help="Merging method, with its own defaults; task_arithmetic unless given.")
    ] = None,
    scaling: Annotated[float | None, typer.Option(help="λ of the merge.")] = None,
    task: Annotated[str | None, typer.Option(help="Say who did it, of this task: merge without each adapter.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="CSV file for all probabilities.")] = None,
    base: Base = None,
) -> None:
    """Print what the base, each task's own adapter and the merge answer to texts, and where the merge flips."""
    adapters, spec = _merge_of(inputs, method, scaling, base)
    for line in answer_lines(adapters, spec, text, task, output, base):
        print(line, flush=True)


def show_broken(
    recipe: Annotated[str, typer.Argument(help="A recipe.yaml.")],
    task: Annotated[str, typer.Option(help="Whose test rows.")],
    rows: Annotated[int, typer.Option(min=1, help="Test rows that are answered.")] = 200,
    shown: Annotated[int, typer.Option("--show", min=0, help="Broken rows that are printed, the surest first.")] = 20,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="CSV file for all rows.")] = None,
    base: Base = None,
) -> None:
    """Print the test rows on which the task's own adapter is right and the merge is wrong, and how many it mends."""
    if (found := recipe_of([recipe])) is None:
        raise MergeError(f"{recipe} is no recipe.yaml: write a merge first, with mergescope merge.")
    for line in broken_lines(found.load_adapters(), found.spec, task, rows, shown, output, base):
        print(line, flush=True)


def _merge_of(
    inputs: Sequence[str], method: str | None, scaling: float | None, base: str | None
) -> tuple[list[Adapter], MergeSpec]:
    if (recipe := recipe_of(inputs)) is not None:
        if method is not None or scaling is not None:
            raise MergeError("--method and --scaling have no effect beside a recipe, which says them: leave them out.")
        return recipe.load_adapters(), recipe.spec
    from ..recipes.spec import MergeSpec

    return loaded(inputs, base), MergeSpec.of(
        method or "task_arithmetic", None if scaling is None else {"scaling": scaling}
    )


def _questions(adapters: Sequence[Adapter], task: str | None) -> dict[str, Question]:
    """Return what each adapter is asked; raises MergeError where two are of one task, or none of the one looked at."""
    from ..playground.questions import question_of
    from ..tasks.embedded import SOURCES
    from ..tasks.task import Task

    names = [adapter.task for adapter in adapters]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise MergeError(f"Two adapters are of the task {twice!r}: leave one out.")
    if task is not None and task not in names:
        raise MergeError(f"No adapter is of the task {task!r}; there are {', '.join(names)}.")
    return {a.task: question_of(a, Task.load(a.task) if a.task in SOURCES else None) for a in adapters}


def _features(adapters: Sequence[Adapter], spec: MergeSpec, base: str | None) -> Features | None:
    return features_of(adapters, base, spec.k) if spec.needs_data else None


def answer_lines(
    adapters: Sequence[Adapter],
    spec: MergeSpec,
    texts: Sequence[str],
    task: str | None,
    output: Path | None,
    base: str | None,
) -> Iterator[str]:
    """Yield the answers to texts, line by line; with ``task`` also each adapter's pull at its answer.

    Raises
    ------
    MergeError
        As `merging.playground.predictions`, and for a task that no adapter is of.
    """
    from ..engine import merge_spec
    from ..playground.answers import predictions, winners
    from ..playground.weights import BASE, weights_by_task, weights_of

    questions = _questions(adapters, task)
    model, tokenizer = opened(adapters, base)
    features = _features(adapters, spec, base)
    sources = {
        "base": dict.fromkeys(questions, BASE),
        "own": {adapter.task: weights_of(adapter) for adapter in adapters},
        "merge": weights_by_task(merge_spec(adapters, spec, features), list(questions)),
    }
    frame = predictions(model, tokenizer, texts, [*questions.values()], sources)
    best = winners(frame).set_index(["text", "task", "source"])
    for place, text in enumerate(texts):
        yield _short(text)
        yield f"  {'task':12} {'base':>22} {'own adapter':>22} {'merge':>22}"
        for name in questions:
            said = [best.loc[(place, name, source)] for source in sources if (place, name, source) in best.index]
            cells = " ".join(f"{f'{_short(one.label, 16)} {one.probability:.2f}':>22}" for one in said)
            flip = "   flipped" if said[-1].label != said[1].label else ""
            yield f"  {name:12} {cells}{flip}"
    if task is not None:
        yield from _blame_lines(model, tokenizer, adapters, spec, texts, questions[task], features)
    if output is not None:
        with whole_file(output) as fresh:
            frame.assign(text=[texts[place] for place in frame["text"]]).to_csv(fresh, index=False)


def _blame_lines(
    model: nn.Module,
    tokenizer: Any,
    adapters: Sequence[Adapter],
    spec: MergeSpec,
    texts: Sequence[str],
    question: Question,
    features: Features | None,
) -> Iterator[str]:
    from ..diagnostics.leave_out import merging_with
    from ..playground.blame import leave_one_out
    from ..plugins import PLUGINS

    plugins = {name: getattr(spec, name) for name in PLUGINS}
    options = {**spec.values, **plugins, "seed": spec.seed, "features": features}
    merge_of = merging_with(adapters, spec.method, spec.weights_for(len(adapters)), **options)
    frame = leave_one_out(model, tokenizer, texts, question, adapters, merge_of)
    for place, text in enumerate(texts):
        mine = frame[frame["text"] == place]
        label = mine.loc[mine["probability"].idxmax(), "label"]
        yield f"who did it: {question.task}, {label}, {_short(text)}"
        yield f"  {'without':12} {'logit':>8} {'moves it by':>12} {'share':>7}"
        for row in mine[mine["label"] == label].sort_values("effect").itertuples():
            yield f"  {row.left_out:12} {row.without:8.2f} {row.effect:+12.2f} {row.share:+7.0%}"


def broken_lines(
    adapters: Sequence[Adapter],
    spec: MergeSpec,
    task: str,
    rows: int,
    shown: int,
    output: Path | None,
    base: str | None,
) -> Iterator[str]:
    """Yield what a merge breaks of a task's test rows, line by line.

    Raises
    ------
    MergeError
        For a task that no adapter is of, or that is none of the embedded ones.
    """
    from ..engine import merge_spec
    from ..evaluation.accuracy import encode_task, hits
    from ..playground.rows import changed_rows, confusion, mcnemar, outcome
    from ..tasks.task import Task

    questions = _questions(adapters, task)
    known, (model, tokenizer) = Task.load(task), opened(adapters, base)
    merged = merge_spec(adapters, spec, _features(adapters, spec, base))
    own = next(adapter for adapter in adapters if adapter.task == task)
    encoded = encode_task(tokenizer, known, "test", rows)
    heads = {task: questions[task].head}
    said: list[Outcome] = [
        outcome(hits(model, tokenizer, subject, [encoded], heads=heads)) for subject in (own, merged.for_task(task))
    ]
    count = len(said[0].predicted)
    frame = changed_rows(known.test.texts[:count], known.test.labels[:count], known.labels, *said)
    broken, mended = (int((frame["kind"] == kind).sum()) for kind in ("broken", "mended"))
    p = mcnemar(broken, mended)
    yield f"{task}: of {count} test rows the merge breaks {broken} and mends {mended}; McNemar's exact p = {p:.3g}"
    yield confusion(known.labels, *said).rename_axis(index="own adapter", columns="merge").to_string()
    for row in frame[frame["kind"] == "broken"].head(shown).itertuples():
        sides = f"{row.truth} ({row.sure_first:.2f}) -> {row.second} ({row.sure_second:.2f})"
        yield f"{row.row:5} {sides}  {_short(row.text)}"
    if output is not None:
        with whole_file(output) as fresh:
            frame.to_csv(fresh, index=False)


def _short(text: str, signs: int = SHOWN) -> str:
    line = " ".join(text.split())
    return line if len(line) <= signs else f"{line[: signs - 1]}…"
