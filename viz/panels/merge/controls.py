"""The controls of a merge: laid out once, labelled by the `Param`s of methods and plug-ins, read back as `Settings`.

Parameters live in a fixed bank of slots, as many as the richest method needs. A slot is relabelled when the method
changes and never rebuilt, so that nothing moves or loses focus under the pointer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import gradio as gr

from merging.methods import Method, Param
from merging.plugins.base import Plugin
from merging.plugins.decouple import DECOUPLE_PARAMS, Decouple
from merging.plugins.norm_cap import NORM_CAP_PARAMS
from merging.plugins.orthogonalize import MODES, Orthogonalize
from merging.plugins.pico import PICO_PARAMS
from merging.plugins.soft_osrm import SoftOSRM
from merging.recipes.spec import NOT_DECOUPLED, K, MergeSpec
from merging.services.settings import K_RANGE, LIMIT, LIMIT_RANGE, MOST_SEED, MOST_TASKS, WEIGHT_RANGE, Settings
from merging.services.workbench import Workbench
from viz.panels.kit.help import disclosure, plugins_page

Catalogue = Mapping[str, Method]
Plugins = Mapping[str, Plugin]

OPENING_SCALING = 1.0  # where a plain sum collapses and the story begins
K_HELP = "Texts of each task that soft OSRM and the rank curve look at. With soft OSRM at 0 the merge needs no texts."
YES_NO = ("no", "yes")
PLUGIN_SLIDERS = {  # control -> plug-in, its parameter
    "penalty": ("orthogonalize", "penalty"),
    "decouple": ("decouple", "strength"),
    "mu": ("soft_osrm", "mu"),
}
MAGNITUDE = DECOUPLE_PARAMS[1:]  # beside its strength; the controls have the parameters' names
OTHERS = {"pico": PICO_PARAMS[0], "norm_cap": NORM_CAP_PARAMS[0]}  # plug-ins of one parameter, by their controls


@dataclass(frozen=True)
class Controls:
    """The components: `form` decides the merge (by name, in a fixed order), `limit` how many rows are evaluated."""

    form: dict[str, Any]
    limit: gr.Slider
    teaches: gr.HTML
    about: gr.HTML
    page: gr.HTML
    notes: gr.HTML
    pin: gr.Button
    unpin: gr.Button
    tuned: gr.Button
    tune: gr.Button
    equal: gr.Button
    undo: gr.Button
    redo: gr.Button

    @property
    def weights(self) -> list[Any]:
        """One slider per task of a pool; those beyond its tasks are hidden."""
        return [component for name, component in self.form.items() if name.startswith("weight_")]


def controls(workbench: Workbench, methods: Catalogue, plugins: Plugins) -> Controls:
    """Lay out the controls as the page opens: the first pool, the app's own method, at λ = 1."""
    pool, method = next(iter(workbench.pools)), opening_method(methods)
    start = _opening(workbench, methods, pool, method)
    form: dict[str, Any] = {}

    def add(name: str, kind: type[gr.components.Component], **options: Any) -> None:
        form[name] = kind(**(options | start.get(name, {})), container=True, elem_id=f"ms-{name}")

    def add_option(name: str, param: Param) -> None:
        kind, style = (gr.Radio, "ms-segments") if _is_choice(param) else (gr.Slider, "ms-slider")
        add(name, kind, **_option(param), elem_classes=style)

    gr.HTML("<h2>Pool</h2>", apply_default_css=False, container=False, padding=False)
    pools = [(pool_label(workbench, name), name) for name in workbench.pools]
    add("pool", gr.Radio, choices=pools, value=pool, label="Adapters", show_label=False)
    teaches = gr.HTML(elem_id="ms-teaches", apply_default_css=False, container=False, padding=False)
    add("method", gr.Dropdown, choices=[(m.title, name) for name, m in methods.items()], value=method, label="Method")
    about = gr.HTML(elem_id="ms-about", apply_default_css=False, container=False, padding=False)
    page = disclosure("ms-method-page", "How it works")
    for slot in range(_most(methods, _sliders)):
        add(f"slider_{slot}", gr.Slider, elem_classes="ms-slider")
    for slot in range(_most(methods, _choices)):
        add(f"choice_{slot}", gr.Radio, elem_classes="ms-segments")
    modes = {"label": plugins["orthogonalize"].title, "choices": list(MODES), "elem_classes": "ms-segments"}
    add("orthogonalize", gr.Radio, **modes)
    for name, (plugin, param) in PLUGIN_SLIDERS.items():
        if name == "decouple":
            for other, each in OTHERS.items():
                add_option(other, each)
        add(name, gr.Slider, **plugin_slider(plugins[plugin], param), elem_classes="ms-slider")
        if name == "decouple":
            with gr.Accordion("Decouple: choices that are ours", open=False, elem_id="ms-decouple-more"):
                for each in MAGNITUDE:
                    add_option(each.name, each)
    disclosure("ms-plugins-page", "How the plug-ins work", plugins_page(plugins.values()))
    k = {
        "minimum": K_RANGE[0],
        "maximum": K_RANGE[1],
        "step": 5,
        "value": K,
        "label": "Texts per task k",
        "info": K_HELP,
    }
    add("k", gr.Slider, **k, elem_classes="ms-slider")
    add("seed", gr.Number, value=0, precision=0, minimum=0, maximum=MOST_SEED, label="Seed")
    with gr.Row(elem_classes="ms-heading"):
        gr.HTML("<h2>Adapters</h2>", apply_default_css=False, container=False, padding=False)
        equal = gr.Button("reset weights", size="sm", elem_id="ms-equal", elem_classes="ms-link")
    for place in range(MOST_TASKS):
        weight = {"minimum": WEIGHT_RANGE[0], "maximum": WEIGHT_RANGE[1], "step": 0.05, "value": 1}
        add(f"weight_{place}", gr.Slider, **weight, elem_classes=["ms-slider", "ms-weight", f"ms-task-{place % 8}"])
    gr.HTML("<h2>Evaluation</h2>", apply_default_css=False, container=False, padding=False)
    limit = gr.Slider(
        *LIMIT_RANGE, LIMIT, step=50, label="Test rows per task", elem_id="ms-limit", elem_classes="ms-slider"
    )
    with gr.Row(elem_classes="ms-buttons"):
        pin = gr.Button("Pin this run", variant="primary", size="sm", elem_id="ms-pin")
        unpin = gr.Button("Clear pins", size="sm", elem_id="ms-unpin")
    with gr.Row(elem_classes="ms-buttons"):
        tuned = gr.Button("Tuned values", size="sm", elem_id="ms-tuned")
        tune = gr.Button("Tune λ", size="sm", elem_id="ms-tune-scaling")
    with gr.Row(elem_classes="ms-buttons"):
        undo = gr.Button("Undo", size="sm", elem_id="ms-undo")
        redo = gr.Button("Redo", size="sm", elem_id="ms-redo")
    notes = gr.HTML(elem_id="ms-notes", apply_default_css=False, container=False, padding=False)
    return Controls(form, limit, teaches, about, page, notes, pin, unpin, tuned, tune, equal, undo, redo)


def opening_method(methods: Catalogue) -> str:
    """Name the method that the page opens with."""
    return "do_merging" if "do_merging" in methods else next(iter(methods))


def opening(workbench: Workbench, methods: Catalogue, method: str = "") -> Settings:
    """Give the settings that the page opens with, or the same with another method."""
    pool, method = next(iter(workbench.pools)), method or opening_method(methods)
    form = {name: options.get("value") for name, options in _opening(workbench, methods, pool, method).items()}
    return read(workbench, methods, form | {"pool": pool, "method": method, "k": K, "seed": 0})


def _opening(workbench: Workbench, methods: Catalogue, pool: str, method: str) -> dict[str, dict[str, Any]]:
    options = choose(workbench, methods, pool, method)
    for slot, param in enumerate(_sliders(methods[method].params)):
        if param.name == "scaling":
            options[f"slider_{slot}"]["value"] = OPENING_SCALING
    return options


def pool_label(workbench: Workbench, pool: str) -> str:
    """Name a pool, with how hard it is to merge: the gap that a plain sum recovers at its best λ."""
    found = workbench.hardness(pool)
    if found is None or isnan(found.mean):
        return workbench.pools[pool]
    return f"{workbench.pools[pool]} · plain sum recovers {100 * found.mean:.0f} %".replace("-", "−")


def choose(workbench: Workbench, methods: Catalogue, pool: str, method: str) -> dict[str, dict[str, Any]]:
    """Give the options of the controls that depend on pool and method: tuned values, labels, visibility."""
    tuned = workbench.defaults(pool, method).to_dict()
    params = methods[method].params
    options: dict[str, dict[str, Any]] = {}
    for slot in range(_most(methods, _sliders)):
        used = slot < len(_sliders(params))
        options[f"slider_{slot}"] = _slider(_sliders(params)[slot], tuned) if used else {"visible": False}
    for slot in range(_most(methods, _choices)):
        used = slot < len(_choices(params))
        options[f"choice_{slot}"] = _choice(_choices(params)[slot], tuned) if used else {"visible": False}
    for name in ("orthogonalize", *PLUGIN_SLIDERS):
        options[name] = {"value": tuned[name], "visible": methods[method].plugins}
    for name, each in (OTHERS | {each.name: each for each in MAGNITUDE}).items():
        options[name] = {"value": _shown(each, each.default), "visible": methods[method].plugins}
    options["seed"] = {"visible": methods[method].random}
    tasks = workbench.tasks(pool)
    for place in range(MOST_TASKS):
        used = place < len(tasks)
        options[f"weight_{place}"] = (
            {"label": workbench.title(tasks[place]), "visible": True, "value": 1} if used else {"visible": False}
        )
    return options


def read(workbench: Workbench, methods: Catalogue, form: Mapping[str, Any]) -> Settings:
    """Read the settings off the form's values by name."""
    method = methods[form["method"]]
    values: dict[str, Any] = {
        param.name: _read_slider(param, form[f"slider_{slot}"]) for slot, param in enumerate(_sliders(method.params))
    }
    values |= {
        param.name: _read_choice(param, form[f"choice_{slot}"]) for slot, param in enumerate(_choices(method.params))
    }
    ortho = Orthogonalize(form["orthogonalize"] if method.plugins else "off", float(form["penalty"]))
    magnitude = Decouple(float(form["decouple"]), **{param.name: _read(param, form[param.name]) for param in MAGNITUDE})
    spec = MergeSpec(
        form["method"],
        tuple((param.name, values[param.name]) for param in method.params),
        SoftOSRM(float(form["mu"])) if form["mu"] and method.plugins else None,
        ortho,
        magnitude if method.plugins else NOT_DECOUPLED,
        weights=tuple(float(form[f"weight_{place}"]) for place in range(len(workbench.tasks(form["pool"])))),
        seed=int(form["seed"] or 0),
        k=int(form["k"]),
        **({name: _read(param, form[name]) for name, param in OTHERS.items()} if method.plugins else {}),
    )
    return Settings(form["pool"], spec)


def form_of(methods: Catalogue, settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the controls' values for settings of the pool and method that the form already shows: `read` backwards."""
    params, values = methods[settings.spec.method].params, settings.spec.to_dict()
    found = {f"slider_{slot}": _shown(param, values[param.name]) for slot, param in enumerate(_sliders(params))}
    found |= {f"choice_{slot}": _shown(param, values[param.name]) for slot, param in enumerate(_choices(params))}
    found |= {param.name: _shown(param, values[param.name]) for param in MAGNITUDE}
    found |= {name: _shown(param, values[name]) for name, param in OTHERS.items()}
    found |= {name: values[name] for name in ("orthogonalize", *PLUGIN_SLIDERS, "k", "seed")}
    found |= {f"weight_{place}": weight for place, weight in enumerate(settings.spec.weights)}
    return {name: {"value": value} for name, value in found.items()}


def restored(workbench: Workbench, methods: Catalogue, settings: Settings) -> dict[str, dict[str, Any]]:
    """Give the options of every control for settings of any pool and method."""
    options = choose(workbench, methods, settings.pool, settings.spec.method)
    for name, option in form_of(methods, settings).items():
        options[name] = options.get(name, {}) | option
    return options | {"pool": {"value": settings.pool}, "method": {"value": settings.spec.method}}


def _sliders(params: Sequence[Param]) -> list[Param]:
    return [param for param in params if not _is_choice(param)]


def _choices(params: Sequence[Param]) -> list[Param]:
    return [param for param in params if _is_choice(param)]


def _is_choice(param: Param) -> bool:
    return bool(param.choices) or isinstance(param.default, bool)


def _most(methods: Catalogue, pick: Callable[[Sequence[Param]], list[Param]]) -> int:
    return max(len(pick(method.params)) for method in methods.values())


def _slider(param: Param, tuned: Mapping[str, Any], none: str = "automatic") -> dict[str, Any]:
    """Describe a slider; one step below the range of an optional parameter stands for None."""
    least = param.minimum - param.step if param.optional else param.minimum
    label = f"{param.label} ({least:g} = {none})" if param.optional else param.label
    limits = {"minimum": least, "maximum": param.maximum, "step": param.step}
    value = _shown(param, tuned.get(param.name, param.default))
    return limits | {"label": label, "info": param.help, "value": value, "visible": True}


def _option(param: Param) -> dict[str, Any]:
    """Describe the control of a plug-in's option."""
    options = _choice(param, {}) if _is_choice(param) else _slider(param, {}, "no limit")
    return {name: value for name, value in options.items() if name not in ("value", "visible")}


def _shown(param: Param, value: Any) -> Any:
    """Return what a control shows for a parameter's value; `_read` backwards."""
    if _is_choice(param):
        return value if param.choices else YES_NO[int(bool(value))]
    return param.minimum - param.step if value is None and param.optional else value


def _read(param: Param, value: Any) -> Any:
    return _read_choice(param, value) if _is_choice(param) else _read_slider(param, value)


def _read_slider(param: Param, value: float) -> float | None:
    return None if param.optional and value < param.minimum else value


def _choice(param: Param, tuned: Mapping[str, Any]) -> dict[str, Any]:
    value = _shown(param, tuned.get(param.name, param.default))
    return {
        "label": param.label,
        "info": param.help,
        "visible": True,
        "value": value,
        "choices": list(param.choices or YES_NO),
    }


def _read_choice(param: Param, value: str) -> str | bool:
    return value if param.choices else value == YES_NO[1]


def plugin_slider(plugin: Plugin, name: str) -> dict[str, Any]:
    """Describe the slider of a plug-in's parameter."""
    param = next(param for param in plugin.params if param.name == name)
    title = plugin.title.partition(" (")[0]
    label = param.label if param.label.startswith(title) else f"{title}: {param.label[0].lower()}{param.label[1:]}"
    return {"minimum": param.minimum, "maximum": param.maximum, "step": param.step, "label": label, "info": param.help}
