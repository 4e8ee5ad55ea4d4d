"""Training on the OSRM panel, and the visitor's sets that come of it: plain values in, texts for the components out, no
Gradio.

`start` takes a plan up, `train` carries it out, `measure` merges the sets. Work that finds itself out of date stops
before its next step.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from merging.errors import MergeError
from merging.io.whole import whole_file
from merging.services.lab import Lab
from merging.services.plan import Trained
from merging.services.pools import Pools
from merging.training.variants import VARIANTS
from viz.panels.kit.alert import alert
from viz.panels.kit.events import paced
from viz.panels.merge.session import Score
from viz.panels.osrm import views
from viz.panels.osrm.plan import read_plan
from viz.panels.osrm.session import OsrmSession, TrainedSet, Training
from viz.panels.osrm.status import set_title, sets_html, training_html

PAUSE = 0.3  # seconds between two drawings of running work
CURVES = ("loss", "validation", "drift")
Values = dict[str, Any]

Train = Callable[[dict[str, Any], str, str], Iterator[Trained]]
"""`train(plan, root, stop)`: trains into the folder `root` until done or until a file `stop` exists."""
Merge = Callable[[dict[str, str], float], Iterator[tuple[str, float, float, float, int, int]]]
"""`merge({task: folder}, scaling)`: yields task, accuracy, low, high, done, total."""


class TrainingHandlers:
    """The handlers of trainings and sets, on one lab; what belongs to a visitor is in the session that they are
    given."""

    def __init__(self, lab: Lab, pools: Pools, train: Train, merge: Merge) -> None:
        self.lab, self.pools, self.train_set, self.merge = lab, pools, train, merge

    def titles(self, session: OsrmSession) -> Mapping[str, str]:
        """Give {name: title} of the tasks that the visitor may choose."""
        return self.lab.titles(session.visitor.key)

    def start(self, session: OsrmSession, form: Mapping[str, Any]) -> Values:
        """Take a plan up for training, unless one runs or the plan cannot be carried out."""
        if session.training is not None and session.training.running:
            return {}
        try:
            plan = read_plan(form)
            self.lab.check(plan)
            self.lab.admit(session.visitor.key, 0)
        except MergeError as error:
            return session.changed(note=alert(error))
        root = session.visitor.folder("osrm") / f"training-{session.move()}"
        root.mkdir()
        session.training = Training(plan, root)
        return session.changed(**self.training(session))

    def train(self, session: OsrmSession) -> Iterator[Values]:
        """Train the set that was taken up, and keep it."""
        training = session.training
        if training is None or training.state != "waiting":
            return
        try:
            yield from self._train(session, training)
        except MergeError as error:
            training.state, training.error = "failed", str(error)
        except Exception:
            training.state, training.error = "failed", "The training failed; the log of the server says why."
            yield session.changed(**self.training(session))
            raise
        finally:
            if training.running:  # ended from outside: the page is gone
                training.cancel()
                training.state = "stopped"
        new = session.keep(training)
        if new is not None:
            self._offer(session, new)
        yield session.changed(**self.training(session), **self.sets(session)) | self._offered(session)

    def _train(self, session: OsrmSession, training: Training) -> Iterator[Values]:
        plan = training.plan
        if VARIANTS[plan.variant].init == "osrm":
            training.state = "reading"
            # read here and not in the stream: what a borrowed GPU's process reads would be gone with it
            for training.read, due in paced(self.lab.reading(plan), PAUSE):
                if training.cancelled:
                    training.state = "stopped"
                    return
                if due:
                    yield session.changed(**self.training(session))
        training.state = "running"
        yield session.changed(**self.training(session))
        for event, due in paced(self.train_set(asdict(plan), str(training.root), str(training.stop_file)), PAUSE):
            if training.take(event) or due:
                yield session.changed(**self.training(session))
        training.state = "stopped" if training.cancelled else "done"

    def cancel(self, session: OsrmSession) -> Values:
        """Stop the training; what is done is kept."""
        if session.training is None:
            return {}
        session.training.cancel()
        return session.changed(training=training_html(self.titles(session), session.training))

    def training(self, session: OsrmSession) -> dict[str, str]:
        """Draw the state and the curves of the training."""
        titles, training = self.titles(session), session.training
        values = {"training": training_html(titles, training)}
        if training is None:
            waiting = "Drawn while a set is trained."
            return values | {name: views.nothing(waiting, f"mergescope_{name}") for name in CURVES}
        return values | views.training_views(titles, training)

    # -- the visitor's sets --------------------------------------------------------------------------------------------

    def _offer(self, session: OsrmSession, new: TrainedSet) -> None:
        """Make a set a pool of the Merge panel; one adapter alone is nothing to merge."""
        old = session.drop_oldest()
        if old is not None:
            self.pools.remove_pool(old.key)
        if len(new.adapters) > 1:
            plan = replace(new.plan, tasks=tuple(new.folders))
            self.pools.add_pool(new.key, self._title(new), new.folders, plan.texts)

    def _offered(self, session: OsrmSession) -> Values:
        session.visitor.pools["osrm"] = [(self._title(one), one.key) for one in session.sets if len(one.adapters) > 1]
        sets = [(self._title(one), one.key) for one in reversed(session.sets)]
        return {"pools": session.visitor.choices, "choice": sets}

    @staticmethod
    def _title(one: TrainedSet) -> str:
        return f"Your set {one.number}: {set_title(one.plan)}"

    def rescale(self, session: OsrmSession, scaling: float) -> Values:
        """Take another λ up."""
        session.scaling = round(float(scaling), 3)
        return session.changed(**self.sets(session))

    def measure(self, session: OsrmSession) -> Iterator[Values]:
        """Merge every set with Task Arithmetic at the current λ and stream its accuracy, the newest first."""
        session.measuring += 1
        mine = session.measuring
        for one in reversed(session.sets):
            scaling = session.scaling
            if one.complete(scaling):
                continue
            scores = one.merged.setdefault(scaling, {})
            for (task, accuracy, low, high, done, total), due in paced(self.merge(one.folders, scaling), PAUSE):
                if session.scaling != scaling or session.measuring != mine:
                    yield {}
                    return
                scores[task] = Score(accuracy, low, high, done, total)
                if due:
                    yield session.changed(**self.sets(session))
        yield session.changed(**self.sets(session))

    def sets(self, session: OsrmSession) -> dict[str, str]:
        """Draw the table of the visitor's sets."""
        return {"sets": sets_html(self.titles(session), session.sets, session.scaling)}

    def archive(self, session: OsrmSession, key: str) -> str | None:
        """Pack a set of the visitor's into one zip, a PEFT folder per task; gives its path."""
        one = next((one for one in session.sets if one.key == key), None)
        if one is None:
            return None
        name = f"mergescope_set{one.number}_{one.plan.variant}"
        path = one.root / f"{name}.zip"
        if not path.exists():
            with whole_file(path) as fresh, zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED) as packed:
                for task, folder in one.folders.items():
                    for file in sorted(Path(folder).iterdir()):
                        packed.write(file, f"{name}/{task.removeprefix(f'{session.visitor.key}-')}/{file.name}")
        return str(path)
