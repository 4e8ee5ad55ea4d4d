"""Texts of the OSRM panel: notes, the state of a training, the table of the visitor's sets."""

from collections.abc import Mapping, Sequence
from html import escape
from math import sqrt

from merging.services.plan import Plan
from merging.training.variants import VARIANTS
from viz.panels.kit.alert import alert
from viz.panels.merge.session import Score
from viz.panels.osrm.session import TrainedSet, Training

HEADS = ("set", "initialisation", "tasks", "rank", "k", "alone", "merged", "drift of A")


def reading_html(done: int, total: int) -> str:
    """Write how far reading is."""
    bar = f'<progress max="{total}" value="{done}" aria-label="Texts read"></progress>' if total else ""
    return (
        f'<div class="ms-reading" data-state="reading"><small>reading texts · <b>{done:,} of '
        f"{total:,}</b></small>{bar}</div>"
    )


def notes_html(notes: Sequence[str]) -> str:
    """Write warnings about a plan."""
    return "".join(f'<p class="ms-warning" role="status">{escape(note)}</p>' for note in notes)


def training_html(titles: Mapping[str, str], training: Training | None) -> str:
    """Write the state of the training: which task of how many, how far, how long still."""
    if training is None:
        idle = "Nothing is being trained. Train makes one adapter per task, keeps them as a set, and merges them."
        return f'<section class="ms-status" aria-label="Training" data-state="idle"><p>{idle}</p></section>'
    total, said = len(training.plan.tasks), ""
    if training.state == "failed":
        said = alert(training.error)
    elif not training.running:
        said = f'<p class="ms-unseen" role="status">{escape(_ended(training))}</p>'
    place = " data-place" if training.state == "waiting" else ""
    done = f"{_share(training):.3f}"
    return (
        f'<section class="ms-status" aria-label="Training" data-state="{training.state}">'
        f"<p><b{place}>{escape(_headline(titles, training, total))}</b> {escape(_details(training))}</p>"
        f'<progress max="1" value="{done}" aria-label="Training done"></progress>{said}</section>'
    )


def _headline(titles: Mapping[str, str], training: Training, total: int) -> str:
    variant = VARIANTS[training.plan.variant].title
    if training.state == "waiting":
        return "Waiting for another visitor's training to end."
    if training.state == "reading":
        done, of = training.read
        return f"Reading texts for {variant}: {done:,} of {of:,}."
    if training.state == "running" and training.last is None:
        return f"{variant}: solving the subspaces and encoding the texts."
    if training.state == "running" and training.last is not None:
        stopping = "Stopping after this step. " if training.cancelled else ""
        task = titles.get(training.last.task, training.last.task)
        return f"{stopping}{variant}, task {training.last.place + 1} of {total}: {task}."
    return _ended(training) if training.state != "failed" else "The training failed."


def _ended(training: Training) -> str:
    total, kept = len(training.plan.tasks), len(training.finished)
    if training.state == "done":
        return f"Finished: {total} {'adapter' if total == 1 else 'adapters'} trained."
    return f"Stopped: {kept} of {total} adapters kept." if kept else "Stopped: nothing was kept."


def _details(training: Training) -> str:
    last = training.last
    if training.state != "running" or last is None:
        return ""
    each = last.seconds + last.left
    left = last.left + each * (last.tasks - last.place - 1)
    return f"Step {last.step} of {last.steps}, loss {last.loss:.3f}, about {left:,.0f} s left."


def _share(training: Training) -> float:
    last = training.last
    if training.state == "done":
        return 1.0
    if training.state == "reading":
        done, total = training.read
        return done / max(total, 1)
    return 0.0 if last is None else (last.place + last.step / max(last.steps, 1)) / last.tasks


def sets_html(titles: Mapping[str, str], sets: Sequence[TrainedSet], scaling: float) -> str:
    """Write the table of the visitor's sets, the newest first, merged with Task Arithmetic at λ."""
    if not sets:
        return '<p class="ms-muted">A trained set of adapters appears here, and as a pool in the Merge panel.</p>'
    head = "".join(f'<th scope="col">{name}</th>' for name in (*HEADS[:-2], f"merged at λ {scaling:g}", HEADS[-1]))
    rows = "".join(_row(titles, one, scaling) for one in reversed(sets))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="ms-scroll" tabindex="0" role="region" aria-label="Your sets">{table}</div>'


def _row(titles: Mapping[str, str], one: TrainedSet, scaling: float) -> str:
    plan = one.plan
    names = [titles.get(trained.task, trained.task) for trained in one.adapters]
    tasks = ", ".join(names) + (
        f" ({len(names)} of {len(plan.tasks)}, stopped)" if len(names) < len(plan.tasks) else ""
    )
    cells = (
        f"{one.number}",
        set_title(plan),
        tasks,
        f"{plan.rank}",
        f"{plan.k}" if VARIANTS[plan.variant].init == "osrm" else "–",
        f"{one.single:.3f}",
        merged_text(one, scaling),
        _drift(one),
    )
    state = "done" if one.complete(scaling) else "measuring"
    return f'<tr data-state="{state}">{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'


def set_title(plan: Plan) -> str:
    """Name a set by how its A started, and whether A was trained."""
    return VARIANTS[plan.variant].title + (", A frozen" if plan.freeze_A else "")


def merged_text(one: TrainedSet, scaling: float) -> str:
    """Write the merged average with half the width of its 95 % interval, as far as it is known."""
    scores = one.merged.get(scaling, {})
    if len(scores) < len(one.adapters):
        return "measuring …"
    average, half = mean_and_half(list(scores.values()))
    return f"{average:.3f} ± {half:.3f}" + ("" if one.complete(scaling) else " …")


def mean_and_half(scores: Sequence[Score]) -> tuple[float, float]:
    """Average tasks' accuracies; the half widths of their intervals add up in squares, as their texts are
    independent."""
    mean = sum(score.accuracy for score in scores) / len(scores)
    return mean, sqrt(sum(((score.high - score.low) / 2) ** 2 for score in scores)) / len(scores)


def _drift(one: TrainedSet) -> str:
    if not one.drifts:
        return "–"
    frobenius, procrustes = (sum(values) / len(one.drifts) for values in zip(*one.drifts.values(), strict=True))
    return f"{frobenius:.1%} (rotation taken out {procrustes:.1%})"
