"""From a diagnosis to the text that the linked figures of the Diagnose panel are drawn from in the browser
(assets/js/diagnose.js).
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import orjson
import pandas as pd

from merging.diagnostics.leave_out import layer_of
from merging.diagnostics.linked import Diagnosis
from merging.services.settings import Settings
from viz.figures.diagnose import SCALES, skeletons
from viz.panels.merge.views import parts

MOST_COLUMNS = 60_000  # per adapter that are sent; more look the same in a distribution
ZERO = -32768  # stands for a column that is zero
METRICS = {
    "interference": {
        "title": "Interference on data",
        "help": "How loud the update of the column's adapter is on the row's texts, relative to the row's own adapter "
        "alone (1 = as loud); λ and weights count, the diagonal is what remains of the own update. From second "
        "moments: sqrt(tr(UⱼSᵢUⱼᵀ) / tr(WᵢSᵢWᵢᵀ)), OSRM's last term.",
        "directed": True,
    },
    "to_base": {
        "title": "Interference ÷ base output",
        "help": "The same size relative to the layer's own output, ‖W₀h‖: how much of the layer a foreign update "
        "changes.",
        "directed": True,
    },
    "overlap_A": {
        "title": "Subspace overlap, rows of A",
        "help": "Mean cos² of the principal angles between two row spaces, 0 to 1: shared input directions (Hu et "
        "al., LoRA, section 7.2).",
        "unit": True,
    },
    "overlap_B": {
        "title": "Subspace overlap, columns of B",
        "help": "Mean cos² of the principal angles between two column spaces, 0 to 1: shared output directions.",
        "unit": True,
    },
    "cosine": {
        "title": "Cosine of the updates",
        "help": "⟨Uₐ, U_b⟩ / (‖Uₐ‖ ‖U_b‖), −1 to 1. Near 0 a sum keeps both at full length (Ilharco et al., Task "
        "Arithmetic, section 5).",
    },
}
CAPTIONS = {
    "pairs": "Click a cell to follow that pair everywhere.",
    "map": "Click a cell to follow that layer and module everywhere; Esc clears.",
    "error": "‖(M − Wᵢ)h‖ / ‖Wᵢh‖, mean over modules, h the inputs on task i's texts: 0 acts as the task's own "
    "adapter, 1 (dotted) is as far off "
    "as no adapter at all. What RegMean minimises; no forward pass.",
    "magnitude": "Distribution of log₁₀ column norms. DO-Merging: unequal magnitudes let one task dominate a sum; "
    "decoupling (γ) makes them equal.",
    "variance": "Variance of the column norms across tasks ÷ mean², mean over columns; DO-Merging's figure 1b says "
    "that LoRA's is larger than that of full fine-tunes, and that it hurts.",
    "spectra": "How much of an update's energy its first directions hold, mean over modules; dashed: the merge. What "
    "an export at that rank keeps.",
    "signs": "Grey: entries that two or more updates change in opposite directions (TIES, section 3). Blue: magnitude "
    "that cancels in the weighted sum.",
}


def bundle(
    diagnosis: Diagnosis,
    settings: Settings,
    titles: Sequence[str],
    method: str,
    full: Mapping[str, pd.DataFrame] | None = None,
    known: Mapping[str, str] | None = None,
    fresh: bool = False,
) -> str:
    """Pack a diagnosis for the browser.

    Parameters
    ----------
    titles : the tasks' names for people, in the order of the adapters
    method : the method's title
    full : the full fine-tunes' ``columns`` (task, quantile, log10_norm per module) and ``variance`` (source, module,
        variance); None = unknown
    known : {metric: a sentence to hold its numbers against}
    fresh : the sliders were set by the server, so the browser takes their values from here
    """
    grams = diagnosis.grams
    layers, kinds = parts(grams.modules)
    params = dict(settings.spec.params)
    tasks = [escape(title, quote=False) for title in titles]
    place = [(layers.index(layer_of(module)), kinds.index(module.rsplit(".", 1)[-1])) for module in grams.modules]
    trained, offsets = _columns(diagnosis.norms)
    data: dict[str, Any] = {
        "pool": settings.pool,
        "fresh": fresh,
        "label": f"{method}, λ {{λ}}" if "scaling" in params else method,
        "names": list(titles),
        "tasks": tasks,
        "modules": list(grams.modules),
        "layers": layers,
        "kinds": kinds,
        "place": place,
        "linear": diagnosis.linear,
        "follows_gamma": settings.spec.decouple.follows_strength,
        "scaled": "scaling" in params,
        "at": {"scaling": params.get("scaling", 1.0), "decouple": settings.spec.decouple.strength}
        | {f"weight_{i}": weight for i, weight in enumerate(settings.spec.weights)},
        "metrics": METRICS,
        "known": known or {},
        "captions": CAPTIONS,
        "scales": SCALES,
        "figures": skeletons(tasks, layers, kinds, grams.modules),
        "grams": {
            "data": grams.data,
            "across": grams.data_across,
            "own": grams.data_own,
            "before": grams.data_before,
            "base": grams.base,
        },
        "merge": {
            "data": diagnosis.merge.data,
            "across": diagnosis.merge.data_across,
            "values": [values[values > 0] for values in diagnosis.merge.singular_values],
        },
        "before": vars(diagnosis.before),
        "after": vars(diagnosis.after),
        "values": diagnosis.singular_values,
        "conflict": diagnosis.conflict,
        "lost": diagnosis.lost,
        "offsets": offsets,
        "norms": {"trained": trained, "separated": _columns(diagnosis.separated)[0]},
        "dead": _dead(diagnosis),
        "variance": {"trained": [_variance(norms) for norms in diagnosis.norms], "full": None},
        "full": None,
    }
    if full is not None:
        data |= _full(full, grams.modules, grams.adapters, data["variance"])
    return orjson.dumps(data, default=_listed, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _columns(norms: Sequence[np.ndarray]) -> tuple[str, list[int]]:
    """Return log10 norms as base64 of int16 thousandths, adapter after adapter, and where each module begins."""
    stride = _stride(norms)
    taken = [each[:, ::stride] for each in norms]
    with np.errstate(divide="ignore"):
        logs = np.log10(np.concatenate(taken, axis=1))
    packed = np.where(np.isfinite(logs), np.clip(np.round(logs * 1000), ZERO + 1, -ZERO - 1), ZERO).astype("<i2")
    offsets = np.cumsum([0, *(each.shape[1] for each in taken)]).tolist()
    return b64encode(packed.tobytes()).decode(), offsets


def _dead(diagnosis: Diagnosis) -> list[list[int]]:
    """Return, per adapter, which of the columns sent are not zero and yet only round-off, which decouple leaves
    alone."""
    stride, both = _stride(diagnosis.separated), zip(diagnosis.separated, diagnosis.alive, strict=True)
    dead = np.concatenate([((norms > 0) & ~alive)[:, ::stride] for norms, alive in both], axis=1)
    return [np.flatnonzero(row).tolist() for row in dead]


def _stride(norms: Sequence[np.ndarray]) -> int:
    return max(1, sum(len(each[0]) for each in norms) // MOST_COLUMNS)


def _variance(norms: np.ndarray) -> float:
    """Variance across adapters over the squared mean, averaged over the columns that are alive
    (`merging.diagnostics.measures.magnitude_variance`).
    """
    mean = norms.mean(0)
    alive = mean > 0
    return float((norms.var(0)[alive] / mean[alive] ** 2).mean()) if alive.any() else 0.0


def _full(
    full: Mapping[str, pd.DataFrame], modules: Sequence[str], adapters: Sequence[str], variance: dict[str, Any]
) -> dict[str, Any]:
    """Add the full fine-tunes, where they are of these tasks and modules."""
    columns, table = full["columns"], full["variance"].set_index("module")["variance"]
    if not set(adapters) <= set(columns["task"]) or not set(modules) <= set(table.index):
        return {}
    values = dict(iter(columns.groupby(["module", "task"])["log10_norm"]))
    return {
        "variance": variance | {"full": table[list(modules)].tolist()},
        "full": {"values": [[values[module, task].round(4).tolist() for task in adapters] for module in modules]},
    }


def _listed(value: Any) -> Any:
    """Help orjson with arrays that are not contiguous."""
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value)
    raise TypeError(type(value).__name__)
