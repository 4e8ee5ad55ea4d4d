"""The pages of methods and plug-ins."""

import re
from html import escape

import pytest

from merging.methods import METHODS
from merging.plugins import PLUGINS
from viz.panels.kit.help import DENSE, NEEDS_TASK, NEEDS_TEXTS, first_paragraph, method_page, plugins_page, prose


def test_formulas_are_set_apart_with_their_indices() -> None:
    assert prose("The sum: W = W0 + λ sum_i w_i B_i^T. A column") == (
        "The sum: <code>W = W<sub>0</sub> + λ Σ<sub>i</sub> w<sub>i</sub> B<sub>i</sub><sup>T</sup></code>. A column"
    )
    assert prose("sum_{j != t} ||A h||^2, where k + 1 texts") == (
        "<code>Σ<sub>j ≠ t</sub> ||A h||<sup>2</sup></code>, where k + 1 texts"
    )
    assert (
        prose("signs (0 counts as -); a sum of 0 elects + in A and B")
        == "signs (0 counts as -); a sum of 0 elects + in A and B"
    )
    assert prose("``x < 1`` & <b>") == "<code>x &lt; 1</code> &amp; &lt;b&gt;"


def test_a_page_holds_all_paragraphs_parameters_and_references() -> None:
    page = method_page(METHODS["ties"])
    assert "<h3>References</h3><p>Yadav et al." in page
    for param in METHODS["ties"].params:
        assert f"<dt>{param.label}" in page
        assert any(form in page for form in (param.help, prose(param.help), escape(param.help)))
    first, *rest = (" ".join(part.split()) for part in METHODS["ties"].doc.split("\n\n"))
    assert first_paragraph(METHODS["ties"]).startswith(f"<p>{prose(first)}")
    for part in rest:
        assert " ".join(part.split()[1:3]) in page or part.startswith("References")


def test_a_page_says_what_a_method_needs() -> None:
    said = {
        name: [note for note in (NEEDS_TEXTS, NEEDS_TASK, DENSE) if note in method_page(METHODS[name])]
        for name in METHODS
    }
    assert said["regmean"] == [NEEDS_TEXTS]
    assert said["emr"] == [NEEDS_TASK]
    assert said["ties"] == [DENSE]
    assert said["task_arithmetic"] == []


def test_the_plugins_page_describes_each() -> None:
    page = plugins_page(PLUGINS.values())
    for plugin in PLUGINS.values():
        assert f"<h3>{plugin.title}</h3>" in page
    assert page.count(NEEDS_TEXTS) == 1


@pytest.mark.parametrize("page", [*map(method_page, METHODS.values()), plugins_page(PLUGINS.values())])
def test_no_raw_markup_is_left_on_a_real_page(page: str) -> None:
    text = re.sub(r"<h3>References</h3>.*", "", page)
    assert not re.search(r"`|sum_|\\|[A-Za-z]_[A-Za-z{]\b", re.sub(r"<dd>.*?</dd>", "", text))
    assert page.count("<code>") == page.count("</code>")
    assert "-----" not in page
