"""The pages of methods and plug-ins as HTML: their docstrings, with formulas set apart, and a line per parameter."""

import re
from collections.abc import Iterable
from html import escape
from inspect import cleandoc

import gradio as gr

from merging.methods import Method, Param
from merging.plugins.base import Plugin
from viz.panels.kit.plot import ASSETS

NEEDS_TEXTS = "It reads the first k training texts of each task, without labels, through the base model."
NEEDS_TASK = (
    "It must know the task of each text at inference and has other weights for each task, so it cannot be "
    "exported as one adapter."
)
DENSE = "Its result is dense: exporting it as an adapter needs a rank."

TEMPLATE = """
<details class="ms-page">
  <summary>{title}</summary>
  <div class="ms-scroll" tabindex="0" role="region" aria-label="{title}"></div>
</details>
"""

# A word that makes a formula of the words around it, and one that only goes on with it.
STRONG = re.compile(r"[_^=*|⊥]")
WEAK = re.compile(
    r"(?:[(\[{]*(?:\d+|[A-Za-zα-ωᾱ]|W0|ΔW|mu|sum|mean|diag|density|unified|numel|int)\b|[-+/·<>]|\.\.)[^A-Za-z]*\S*"
)
ENDS = re.compile(r"[:;]$|[^.]\.$")
PAIRS = ("()", "[]", "{}")


def disclosure(elem_id: str, title: str, value: str = "") -> gr.HTML:
    """Make a page behind a summary; it stays open while its value changes."""
    return gr.HTML(
        value,
        html_template=TEMPLATE.format(title=escape(title)),
        js_on_load=(ASSETS / "js" / "page.js").read_text(encoding="utf-8"),
        elem_id=elem_id,
        apply_default_css=False,
        container=False,
        padding=False,
    )


def first_paragraph(method: Method) -> str:
    """Say what a method does: the first paragraph of its page, and its paper."""
    sentence = cleandoc(method.doc).partition("\n\n")[0]
    return f"<p>{prose(sentence)} <cite>{escape(method.paper)}</cite></p>"


def method_page(method: Method) -> str:
    """Write the whole page of a method: what it does, what it needs, its parameters, where it comes from."""
    text, references = _split(method.doc)
    needs = [NEEDS_TEXTS] if "data" in method.needs else []
    if "task_id" in method.needs:
        needs.append(NEEDS_TASK)
    elif not method.low_rank:
        needs.append(DENSE)
    params = f"<h3>Parameters</h3>{_parameters(method.params)}" if method.params else ""
    sources = f"<h3>References</h3><p>{escape(references)}</p>" if references else ""
    return f"{paragraphs(text)}{''.join(f'<p><strong>{need}</strong></p>' for need in needs)}{params}{sources}"


def plugins_page(plugins: Iterable[Plugin]) -> str:
    """Write a short page of what plug-ins do before any method merges."""
    parts = ["<p>A plug-in changes the adapters before any method merges them, in this order.</p>"]
    for plugin in plugins:
        text, references = _split(plugin.doc)
        needs = f"<p><strong>{NEEDS_TEXTS}</strong></p>" if "data" in plugin.needs else ""
        sources = f"<p>{escape(references or plugin.paper)}</p>"
        parts.append(f"<h3>{escape(plugin.title)}</h3>{paragraphs(text)}{needs}{_parameters(plugin.params)}{sources}")
    return "".join(parts)


def paragraphs(text: str) -> str:
    """Write paragraphs as HTML; one whose lines are numbered becomes a list."""
    written = []
    for paragraph in text.split("\n\n"):
        items = re.split(r"^\d+\. ", paragraph, flags=re.MULTILINE)
        if len(items) > 1:
            written.append(f"<ol>{''.join(f'<li>{prose(item)}</li>' for item in items[1:])}</ol>")
        else:
            written.append(f"<p>{prose(paragraph)}</p>")
    return "".join(written)


def prose(text: str) -> str:
    """Write running text as HTML, with its formulas and names of code as `<code>`."""
    pieces = re.split(r"``(.+?)``", " ".join(text.split()))
    return "".join(
        f"<code>{escape(piece)}</code>" if place % 2 else _with_formulas(piece) for place, piece in enumerate(pieces)
    )


def _with_formulas(text: str) -> str:
    written: list[str] = []
    run: list[str] = []
    for word in text.split(" "):
        fits = STRONG.search(word) or WEAK.fullmatch(word)
        if fits:
            run.append(word)
        if not fits or ENDS.search(word) or (word.endswith(",") and _balanced(" ".join(run))):
            written += _set_apart(run)
            run = []
        if not fits:
            written.append(escape(word, quote=False))
    return " ".join([*written, *_set_apart(run)])


def _set_apart(words: list[str]) -> list[str]:
    """Mark the formula in a run of words that may be one; what cannot belong to it stays text on either side."""
    first, last = 0, len(words)
    while first < last and words[last - 1] in "-+/·<>":
        last -= 1
    while first < last and not _balanced(" ".join(words[first:last])):
        last -= 1
    formula = " ".join(words[first:last])
    plain = [escape(word, quote=False) for word in words[last:]]
    if not STRONG.search(formula):
        return [escape(word, quote=False) for word in words]
    body = formula.rstrip(".,:;")
    return [f"<code>{formula_html(body)}</code>{formula[len(body) :]}", *plain]


def formula_html(text: str) -> str:
    """Write a formula with its subscripts and superscripts."""
    text = escape(text.replace("!=", "≠").replace("W0", "W_0"), quote=False)
    text = re.sub(r"\bsum(?=_)", "Σ", re.sub(r"\bmu\b", "μ", text))
    text = re.sub(r"_(?:\{([^}]*)\}|(-?\w))", lambda m: f"<sub>{m[1] or m[2]}</sub>", text)
    return re.sub(r"\^(?:\{([^}]*)\}|(-?\w))", lambda m: f"<sup>{m[1] or m[2]}</sup>", text)


def _balanced(text: str) -> bool:
    return all(text.count(pair[0]) == text.count(pair[1]) for pair in PAIRS)


def _split(doc: str) -> tuple[str, str]:
    """Part a docstring into its text and its references."""
    text, _, references = cleandoc(doc).partition("\n\nReferences\n----------\n")
    return text, " ".join(references.split())


def _parameters(params: Iterable[Param]) -> str:
    entries = (f"<dt>{escape(p.label)} <span>{_default(p)}</span></dt><dd>{escape(p.help)}</dd>" for p in params)
    return f"<dl>{''.join(entries)}</dl>"


def _default(param: Param) -> str:
    if isinstance(param.default, bool):
        return "yes" if param.default else "no"
    if param.default is None:
        return "automatic"
    return f"{param.default:g}" if isinstance(param.default, float) else escape(str(param.default))
