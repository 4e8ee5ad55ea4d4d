"""What happens on the Adapters panel: a visitor's own adapters become a pool that the other panels can merge."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from merging.errors import MergeError
from merging.features.progress import READ_LENGTH
from merging.features.store import TextsOf
from merging.services.lab import Lab
from merging.services.pools import Pools
from merging.services.session_file import (
    SavedAdapter,
    SavedSession,
    SavedTask,
    is_session,
    open_session,
    save_session,
)
from merging.services.settings import MOST_TASKS
from merging.services.shelf import Brought, Prepared, bring, fitted, held_against, keep, overview, rehearsed
from viz.panels.adapters.drop import divided, dropped_task, keep_task, label_order, matched, order_text, sorted_out
from viz.panels.adapters.hub import fetched
from viz.panels.adapters.session import AdaptersSession
from viz.panels.adapters.shelf_table import modules_html, table_html
from viz.panels.kit.alert import alert
from viz.panels.kit.events import paced

LEFT_OUT = ""
PAUSE = 0.25
Prepare = Callable[[dict[str, Brought], dict[str, Any], str, tuple[str, str]], Iterator[Prepared]]
Values = dict[str, Any]


class AdaptersHandlers:
    """The handlers; what belongs to a visitor is in the session that they are given.

    Parameters
    ----------
    lab : knows the tasks
    pools : takes finished sets
    base : (source, dtype) -> (model, tokenizer)
    prepare : ({task: adapter}, {task: Task}, folder, (source, dtype)) -> steps, see `merging.services.shelf.prepare`
    """

    def __init__(self, lab: Lab, pools: Pools, base: Callable[[str, str], tuple[Any, Any]], prepare: Prepare) -> None:
        self.lab, self.pools, self.base, self.prepare = lab, pools, base, prepare

    def tasks(self, session: AdaptersSession) -> list[tuple[str, str]]:
        """Give (title, name) of the tasks that an adapter may be of."""
        return [
            ("leave out", LEFT_OUT),
            *((title, name) for name, title in self.lab.titles(session.visitor.key).items()),
        ]

    # -- what is brought along -----------------------------------------------------------------------------------------

    def upload(self, session: AdaptersSession, paths: Sequence[str], all_test: bool = False) -> Values:
        """Take up what was dropped: adapters (zips, or one's two files) and tables of texts, which become tasks.

        Parameters
        ----------
        all_test : all rows of the tables are test rows
        """
        sessions = [path for path in map(Path, paths) if path.suffix.lower() == ".zip" and is_session(path)]
        if sessions:
            return self.reopen(session, sessions[0])
        sources, tables, wrong = sorted_out(paths)
        notes = [wrong] if wrong else []
        made = []
        for path in tables:
            try:
                made.append(divided(dropped_task(path, session.visitor.key, self.lab, all_test)))
            except MergeError as error:
                notes.append(str(error))
        found = f'<p role="status">{"<br>".join(map(escape, made))}</p>' if made else ""
        added = self._bring(session, sources)
        return added | {"note": found + added["note"] + "".join(map(alert, notes))}

    def save(self, session: AdaptersSession, tasks: Sequence[str], orders: Sequence[str]) -> Path:
        """Write adapters, own tasks and which is of which to one file, as the choices stand.

        Raises
        ------
        MergeError
            If there is nothing to save.
        """
        own = {key: self.lab.task(key) for key in self.lab.titles(session.visitor.key) if self._own(key)}
        adapters, listed = [], []
        for brought, task, text in zip(session.shelf, tasks, orders, strict=False):
            named = brought
            if task and text:
                named = _in_order(brought, label_order(text, self.lab.task(task).labels, brought.name))
            if named.adapter is not None:
                adapters.append(named.adapter)
                listed.append(SavedAdapter(name=brought.name, task=own[task].title if task in own else task))
        if not adapters and not own:
            raise MergeError("There is nothing to save yet: drop adapters or tables of texts first.")
        saved = SavedSession(
            base=session.base,
            vouched=session.vouched,
            adapters=listed,
            tasks=[
                SavedTask(name=task.title, labels=list(task.labels), pairs=task.test.pairs is not None)
                for task in own.values()
            ],
        )
        path = session.visitor.folder("adapters") / "mergescope_session.zip"
        return save_session(path, saved, adapters, [*own.values()])

    def reopen(self, session: AdaptersSession, path: Path) -> Values:
        """Take up a session that was saved before, beside what is here; every task is given as it was."""
        session.run += 1
        folder = session.visitor.folder("adapters") / f"session-{session.run}"
        folder.mkdir()
        try:
            saved, zips, tasks = open_session(path, folder)
            if saved.base != session.base:
                source, dtype = saved.base
                raise MergeError(
                    f"{path.name} is of the base {source} in {dtype}: choose that one under “Base model”, then drop "
                    "the file again."
                )
            keys = {task.title: keep_task(task, session.visitor.key, self.lab) for task in tasks}
            session.vouched = saved.vouched
            before = len(session.shelf)
            self._bring(session, [str(one) for one in zips])
        except MergeError as error:
            return self.view(session) | {"note": alert(error)}
        for place, adapter in enumerate(saved.adapters[: len(session.shelf) - before], before):
            session.shelf[place] = replace(session.shelf[place], name=adapter.name)
        values, known = self.view(session), [name for _, name in self.tasks(session)]
        for place, adapter in enumerate(saved.adapters[: len(session.shelf) - before], before):
            task = keys.get(adapter.task, adapter.task)
            values["slots"][place]["value"] = task if task in known else LEFT_OUT
        said = f"{len(zips)} adapters and {len(tasks)} tasks are here again, as they were saved."
        return values | {"note": f'<p role="status">{said}</p>', "vouched": saved.vouched}

    def from_hub(self, session: AdaptersSession, name: str) -> Iterator[Values]:
        """Load an adapter by its hub id, with an optional @revision: listed, downloaded, put on the shelf."""
        try:
            for step in fetched(name):
                yield {"note": step[0]}
        except MergeError as error:
            yield {"note": alert(error)}
            return
        note, repository = step
        added = self._bring(session, [repository])
        yield added | {"note": added["note"] or note}

    def _bring(self, session: AdaptersSession, sources: Sequence[Any]) -> Values:
        try:
            self.lab.admit(session.visitor.key, len(sources))
        except MergeError as error:
            return self.view(session) | {"note": alert(error)}
        model, _ = self.base(*session.base)
        for source in sources:
            if len(session.shelf) >= MOST_TASKS:
                return self.view(session) | {
                    "note": alert(f"{MOST_TASKS} adapters are here already: remove them first.")
                }
            session.shelf.append(bring(source, model, [one.name for one in session.shelf], session.vouched))
        return self.view(session) | {"note": ""}

    def rebase(self, session: AdaptersSession, source: str, dtype: str) -> Values:
        """Load another base and hold every adapter on the shelf against it."""
        model, _ = self.base(source, dtype)
        session.base = (source, dtype)
        session.run += 1  # what is being measured was of the base before
        session.shelf[:] = [held_against(brought, model, session.vouched) for brought in session.shelf]
        return self.view(session) | {"note": ""}

    def vouch(self, session: AdaptersSession, vouched: bool) -> Values:
        """Take the adapters as of the chosen base whatever name they record, or by their records again."""
        session.vouched = vouched
        return self.rebase(session, *session.base)

    def clear(self, session: AdaptersSession) -> Values:
        """Take all adapters off the shelf; pools that were made stay."""
        session.shelf.clear()
        session.run += 1
        return self.view(session) | {"note": ""}

    def view(self, session: AdaptersSession) -> Values:
        """Draw the table, and say for every adapter which tasks it may be given."""
        table = overview(session.shelf)
        known = self.tasks(session)
        slots: list[Values] = []
        for place in range(MOST_TASKS):
            if place >= len(session.shelf):
                slots.append({"visible": False, "value": LEFT_OUT})
                continue
            usable = not table["problem"][place]
            slots.append(
                {
                    "visible": True,
                    "label": f"Task of {session.shelf[place].name}",
                    "choices": known,
                    "value": self._guess(session.shelf[place], known) if usable else LEFT_OUT,
                    "interactive": usable,
                }
            )
        modules = modules_html(rehearsed(session.shelf)) if session.shelf else ""
        return {"table": table_html(table) + modules, "slots": slots}

    def _guess(self, brought: Brought, known: Sequence[tuple[str, str]]) -> str:
        """Return the own task of an adapter's name, else the one that it records, or whose labels its head has; else
        leave the choice open.
        """
        adapter = brought.adapter
        assert adapter is not None
        names = [name for _, name in known if name]
        own = {name: title for title, name in known if self._own(name)}
        if same_name := matched(brought.name, own) or matched(adapter.task, own):
            return same_name
        if adapter.task in names:
            return adapter.task
        for name in names:
            if name.endswith(f"-{adapter.task}"):
                return name
        if adapter.head is None or not adapter.head.labels:
            return LEFT_OUT
        fitting = [
            name
            for name in names
            if self._own(name) and sorted(self.lab.task(name).labels) == sorted(adapter.head.labels)
        ]
        return fitting[0] if len(fitting) == 1 else LEFT_OUT

    @staticmethod
    def _own(name: str) -> bool:
        return name.startswith("guest")

    # -- a pool of them ------------------------------------------------------------------------------------------------

    def order(self, session: AdaptersSession, place: int, task: str) -> Values:
        """Say in which order the labels of an adapter's head are taken, where the head does not name them."""
        adapter = session.shelf[place].adapter if place < len(session.shelf) else None
        unnamed = adapter is not None and adapter.head is not None and not adapter.head.labels
        if not task or not unnamed:
            return {"visible": False, "value": ""}
        return {"visible": True, "value": order_text(self.lab.task(task).labels)}

    def make(self, session: AdaptersSession, tasks: Sequence[str], orders: Sequence[str] = ()) -> Iterator[Values]:
        """Measure every chosen adapter alone, and offer them as a pool.

        Parameters
        ----------
        orders : the labels of each head in the order of its outputs, see `order`
        """
        session.run += 1
        mine, base = session.run, session.base
        placed = [(task, brought) for task, brought in zip(tasks, session.shelf, strict=False) if task]
        twice = [task for task, _ in placed if sum(other == task for other, _ in placed) > 1]
        if twice:
            yield {
                "note": alert(
                    f"Two adapters are of the task {self._title(session, twice[0])}: give each a task of its own."
                )
            }
            return
        chosen = dict(placed)
        root = session.visitor.folder("adapters") / f"pool{len(session.pools) + 1}-{mine}"
        folders: dict[str, str] = {}
        try:
            self.lab.admit(session.visitor.key, 0)
            known = {name: self.lab.task(name) for name in chosen}
            for name, text in zip(tasks, orders, strict=False):
                if name and text:
                    chosen[name] = _in_order(chosen[name], label_order(text, known[name].labels, chosen[name].name))
            for name, brought in chosen.items():
                if brought.adapter is not None and brought.adapter.head is not None:
                    fitted(brought.adapter.head, known[name], brought.name)
            yield {"note": '<p role="status">Starting.</p>', "busy": True}
            for step, due in paced(self.prepare(chosen, known, str(root), base), PAUSE):
                if session.run != mine:
                    shutil.rmtree(root, ignore_errors=True)
                    yield {"note": '<p role="status">Cancelled; nothing was kept.</p>', "busy": False}
                    return
                if step.folder:
                    folders[step.name] = step.folder
                if due:
                    words = f"Adapter {step.place} of {step.total}, {self._title(session, step.name)}: {step.what}."
                    yield {"note": f'<p role="status">{escape(words)}</p>'}
        except MergeError as error:
            yield {"note": alert(error), "busy": False}
            return
        yield self._offer(session, folders, {brought.name for brought in chosen.values()}, base)

    def open(self, session: AdaptersSession) -> Iterator[Values]:
        """Offer all that fit as a pool, without tasks: to merge, look at and export, not to measure."""
        session.run += 1
        root = session.visitor.folder("adapters") / f"pool{len(session.pools) + 1}-{session.run}"
        try:
            self.lab.admit(session.visitor.key, 0)
            table = overview(session.shelf)
            fitting = [
                brought
                for brought, problem in zip(session.shelf, table.get("problem", ()), strict=False)
                if not problem
            ]
            folders = keep(fitting, root)
        except MergeError as error:
            yield {"note": alert(error)}
            return
        yield self._offer(session, folders, set(folders), session.base, measured=False)

    def _offer(
        self,
        session: AdaptersSession,
        folders: Mapping[str, str],
        names: set[str],
        base: tuple[str, str],
        measured: bool = True,
    ) -> Values:
        key = f"{session.visitor.key}-pool{len(session.pools) + 1}"
        title = f"Your adapters {len(session.pools) + 1}: {', '.join(sorted(names))}"
        modules = {
            module
            for one in session.shelf
            if one.adapter is not None and one.name in names
            for module in one.adapter.deltas
        }
        source, dtype = base
        texts = TextsOf(tuple(folders), tuple(sorted(modules)), source, dtype, READ_LENGTH)
        self.pools.add_pool(key, title, folders, texts, measured)
        session.pools.append((title, key))
        said = "They are a pool now: the Merge tab has it open, Diagnose and Export follow it."
        return {"note": f'<p role="status">{said}</p>', "busy": False, "pools": session.visitor.choices, "pool": key}

    def cancel(self, session: AdaptersSession) -> Values:
        """Let the measuring stop at its next step."""
        session.run += 1
        return {"busy": False}

    def _title(self, session: AdaptersSession, name: str) -> str:
        return self.lab.titles(session.visitor.key).get(name, name)


def _in_order(brought: Brought, labels: tuple[str, ...]) -> Brought:
    """Return an adapter whose head names its labels."""
    adapter = brought.adapter
    if adapter is None or adapter.head is None:
        return brought
    return replace(brought, adapter=replace(adapter, head=replace(adapter.head, labels=labels)))
