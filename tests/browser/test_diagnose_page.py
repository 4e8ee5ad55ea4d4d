"""The Diagnose panel in a real browser: what JavaScript draws is what Python computes, and selection, pins and sliders
hold together.
"""

import csv
import io
import re
from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("playwright")
from playwright.sync_api import APIResponse, Locator, Page, Route, expect

from merging.diagnostics.grams import merge_error
from merging.diagnostics.linked import Diagnosis
from merging.methods import METHODS
from merging.services.settings import Settings
from merging.services.workbench import Workbench
from viz.panels.merge.controls import opening

pytestmark = pytest.mark.slow

FIGURES = ("pairs", "map", "error", "magnitude", "variance", "spectra", "signs")
FEW = 10
"""Texts a task that are read: what is shown here is the same with 100."""
DONE = '#ms-verdict [data-state="done"]'
BARS, CELLS, LINE = 'plots("error").data[0].x', 'plots("pairs").data[0].z', 'plots("variance").data[1].y'
PLOTS = "const plots = (name) => document.querySelector(`#ms-diag [data-figure=${name}] .ms-plot`);"


@pytest.fixture(scope="module")
def bench() -> Workbench:
    """The same pools as the app's, with their texts read here too."""
    found = Workbench()
    list(found.read_moments(opening(found, METHODS).changed(k=FEW)))
    return found


@pytest.fixture(scope="module")
def start(bench: Workbench) -> Settings:
    return opening(bench, METHODS).changed(k=FEW)


def opened(page: Page) -> Page:
    """Go to the tab, let it show every figure at once, and wait until those on data are drawn."""
    expect(page.locator("#ms-recipe pre")).not_to_be_empty()  # the link's merge has come
    page.get_by_role("tab", name="Diagnose").click()
    for question in ("question", "figure"):
        page.locator(f"#ms-diagnose-{question} [data-key=all]").click()
    page.wait_for_function(
        f"() => {{ {PLOTS} return plots('error')?.data?.[0].x.some((value) => value > 0); }}", timeout=150_000
    )
    for name in FIGURES:
        expect(card(page, name).locator(".main-svg").first).to_be_visible()
    return page


def card(page: Page, name: str) -> Locator:
    return page.locator(f"#ms-diag [data-figure={name}]")


def drawn(page: Page, path: str) -> object:
    return page.evaluate(f"() => {{ {PLOTS} return {path}; }}")


def shows(page: Page, path: str, expected: np.ndarray, absolute: float = 1e-3, relative: float = 0.0) -> None:
    """Wait until a figure holds these numbers; what is null there is NaN here."""
    page.wait_for_function(
        f"""([expected, absolute, relative]) => {{ {PLOTS}
              const found = ({path}).flat();
              return found.length === expected.length && found.every((value, i) =>
                (value === null) === (expected[i] === null)
                && Math.abs(value - expected[i]) <= absolute + relative * Math.abs(expected[i])); }}""",
        arg=[[None if np.isnan(value) else float(value) for value in np.ravel(expected)], absolute, relative],
    )


def slider(page: Page, name: str) -> Locator:
    return page.locator(f"#ms-diag-at-{name} input[type=range]")


def move(page: Page, name: str, steps: int) -> float:
    """Move a slider by the keyboard to so many steps above its least value."""
    at = slider(page, name)
    at.focus()
    page.keyboard.press("Home")
    for _ in range(steps):
        page.keyboard.press("ArrowRight")
    return float(at.input_value())


def choice(page: Page, name: str) -> Locator:
    return page.locator(f"#ms-diag [data-choice={name}]")


def click_cell(page: Page, name: str, column: int, row: int, shape: tuple[int, int]) -> None:
    """Click the middle of a heat map's cell; `shape` is (rows, columns), the first row is at the top."""
    area = card(page, name).locator(".nsewdrag")
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    page.mouse.click(
        box["x"] + box["width"] * (column + 0.5) / shape[1], box["y"] + box["height"] * (row + 0.5) / shape[0]
    )


def errors(found: Diagnosis, weights: Sequence[float], scaling: float) -> np.ndarray:
    """The bars: the error on each task's texts, mean over modules."""
    frame = merge_error(found.grams, weights, scaling)
    return frame.groupby("adapter").error.mean()[list(found.grams.adapters)].to_numpy()


def interference(found: Diagnosis, weights: Sequence[float], scaling: float) -> np.ndarray:
    """The cells: how loud adapter j is on the texts of i, [i, j], mean over modules."""
    grams = found.grams
    ratio = np.sqrt(np.einsum("mijj->mij", grams.data) / grams.data_own[:, :, None])
    return scaling * np.abs(weights) * ratio.mean(0)


def test_lambda_and_weights_draw_what_python_computes(open_page, bench: Workbench, start: Settings) -> None:
    page, found = opened(open_page(k=FEW)), bench.diagnosis(start)
    asked: list[str] = []
    page.on("request", lambda request: "/queue/join" in request.url and asked.append(request.url))
    shows(page, BARS, errors(found, start.spec.weights, dict(start.spec.params)["scaling"]))
    for steps in (14, 37):
        value = move(page, "scaling", steps)
        assert value == pytest.approx(0.025 * steps)
        shows(page, BARS, errors(found, start.spec.weights, value))
        shows(page, CELLS, interference(found, start.spec.weights, value))
    box = page.locator("#ms-diag-at-scaling input[type=number]")
    box.fill("5")  # more than there is: the slider's end
    box.press("Tab")
    expect(slider(page, "scaling")).to_have_value("2")
    shows(page, BARS, errors(found, start.spec.weights, 2.0))
    assert asked == []  # the browser does all of this by itself

    scaling = move(page, "scaling", 16)
    weights = (1.0, move(page, "weight_1", 9), 1.0, 1.0, move(page, "weight_4", 0), 1.0, 1.0, 1.0)
    assert weights == pytest.approx((1, 0.45, 1, 1, 0, 1, 1, 1))
    found = bench.diagnosis(start.changed(weights=weights))
    shows(page, BARS, errors(found, weights, scaling))
    shows(page, CELLS, interference(found, weights, scaling))
    shows(page, 'plots("signs").data[1].y', found.lost)


def test_gamma_draws_the_variance_of_magnitudes_that_python_computes(
    open_page, bench: Workbench, start: Settings
) -> None:
    page = opened(open_page(k=FEW))
    gamma = move(page, "decouple", 7)
    settings = start.changed(decouple=gamma)
    table = bench.update(settings).magnitude_variance.set_index("module").variance
    found = bench.diagnosis(settings)
    # column norms are sent as thousandths of log10
    shows(page, LINE, table[list(found.grams.modules)].to_numpy(), absolute=1e-5, relative=0.01)
    shows(page, BARS, errors(found, start.spec.weights, dict(start.spec.params)["scaling"]))
    weights = (move(page, "weight_0", 6), *start.spec.weights[1:])
    table = bench.update(settings.changed(weights=weights)).magnitude_variance.set_index("module").variance
    shows(page, LINE, table[list(found.grams.modules)].to_numpy(), absolute=1e-5, relative=0.01)


def test_the_measures_of_pairs_are_pythons(open_page, bench: Workbench, start: Settings) -> None:
    page, found = opened(open_page(k=FEW)), bench.diagnosis(start)
    empty = np.where(np.eye(len(start.spec.weights)), np.nan, 0)
    for measure in ("overlap_A", "overlap_B", "cosine"):
        choice(page, "metric").select_option(measure)
        after, before = (getattr(pairs, measure).mean(0) for pairs in (found.after, found.before))
        for view, expected in (("entering", after), ("trained", before), ("change", after - before)):
            choice(page, "view").select_option(view)
            shows(page, CELLS, expected + empty, absolute=1e-6)
    choice(page, "metric").select_option("to_base")
    choice(page, "view").select_option("entering")
    loud = np.sqrt(np.einsum("mijj->mij", found.grams.data) / found.grams.base[:, :, None])
    shows(page, CELLS, dict(start.spec.params)["scaling"] * loud.mean(0), absolute=1e-4)


def test_a_cell_that_is_clicked_is_followed_everywhere(open_page, bench: Workbench, start: Settings) -> None:
    page, found = opened(open_page(k=FEW)), bench.diagnosis(start)
    names = [bench.title(task) for task in bench.tasks(start.pool)]
    click_cell(page, "pairs", column=3, row=1, shape=(8, 8))
    expect(choice(page, "source")).to_have_value("3")
    expect(choice(page, "target")).to_have_value("1")
    caption = page.locator(".ms-cell caption")
    expect(caption).to_contain_text(f"update of {names[3]} on texts of {names[1]} · all layers · all modules")
    expect(card(page, "map").locator("figcaption")).to_contain_text(f"{names[3]} on {names[1]}")
    scaling = dict(start.spec.params)["scaling"]
    ratio = scaling * np.sqrt(found.grams.data[:, 1, 3, 3] / found.grams.data_own[:, 1])
    by_module = dict(zip(found.grams.modules, ratio, strict=True))
    layers, kinds = (drawn(page, f'plots("map").data[0].{axis}') for axis in "xy")
    named = {
        (re.search(r"\.(\d+)\.", module)[1], module.rsplit(".", 1)[1]): value for module, value in by_module.items()
    }
    grid = np.array([[named[layer.removeprefix("layer "), kind] for layer in layers] for kind in kinds])
    shows(page, 'plots("map").data[0].z', grid)

    click_cell(page, "map", column=2, row=1, shape=grid.shape)
    expect(choice(page, "layer")).to_have_value("2")
    expect(choice(page, "kind")).to_have_value("1")
    expect(caption).to_contain_text(f"{layers[2]} · {kinds[1]}")
    first = page.locator(".ms-cell tbody tr").first.locator("td")
    expect(first.nth(0)).to_have_text(f"{grid[1, 2]:.3f}")
    expect(first.nth(2)).to_have_text(f"{ratio.mean():.3f}")
    m = found.grams.modules.index(next(module for module, value in by_module.items() if value == grid[1, 2]))
    one = merge_error(found.grams, start.spec.weights, scaling)
    one = one[one.module == found.grams.modules[m]].set_index("adapter").error[list(found.grams.adapters)]
    shows(page, BARS, one.to_numpy())

    page.keyboard.press("Escape")
    for name in ("source", "target", "layer", "kind"):
        expect(choice(page, name)).to_have_value("")
    expect(caption).to_contain_text("all pairs · all layers · all modules")
    shows(page, BARS, errors(found, start.spec.weights, scaling))

    choice(page, "source").select_option("0")  # a pair has two ends in the selects too
    expect(choice(page, "target")).to_have_value("1")
    choice(page, "target").select_option("")
    expect(choice(page, "source")).to_have_value("")
    expect(page.get_by_role("button", name="Clear selection")).to_be_disabled()


def test_the_difference_to_a_pinned_merge_is_now_minus_pinned(open_page, bench: Workbench, start: Settings) -> None:
    page, found = opened(open_page(k=FEW)), bench.diagnosis(start)
    pinned = move(page, "scaling", 10)
    shows(page, BARS, errors(found, start.spec.weights, pinned))
    page.get_by_role("button", name="Pin as A").click()
    now = move(page, "scaling", 30)
    choice(page, "view").select_option("pinned")
    shows(page, CELLS, interference(found, start.spec.weights, now) - interference(found, start.spec.weights, pinned))
    shows(page, 'plots("error").data[1].x', errors(found, start.spec.weights, pinned))
    expect(card(page, "error").locator(".ms-legend")).to_contain_text(f"λ {pinned:g}")

    click_cell(page, "pairs", column=2, row=4, shape=(8, 8))
    page.get_by_role("tab", name="Merge").click()
    page.get_by_role("tab", name="Diagnose").click()
    weight = move(page, "weight_2", 10)  # the server draws anew
    weights = (*start.spec.weights[:2], weight, *start.spec.weights[3:])
    shows(page, 'plots("signs").data[1].y', bench.diagnosis(start.changed(weights=weights)).lost)
    shows(page, CELLS, interference(found, weights, now) - interference(found, start.spec.weights, pinned))
    expect(choice(page, "source")).to_have_value("2")
    expect(choice(page, "target")).to_have_value("4")
    expect(slider(page, "scaling")).to_have_value(f"{now:g}")

    page.get_by_role("button", name="Clear pin").click()
    expect(choice(page, "view")).to_have_value("entering")
    shows(page, CELLS, interference(found, weights, now))
    assert not drawn(page, 'plots("error").data[1].visible')


def test_an_answer_that_comes_late_undoes_nothing(open_page, bench: Workbench, start: Settings) -> None:
    page = opened(open_page(k=FEW))
    page.get_by_role("tab", name="Merge").click()
    held: list[tuple[Route, APIResponse]] = []
    page.route("**/gradio_api/run/**", lambda route: held.append((route, route.fetch())), times=1)
    page.get_by_role("tab", name="Diagnose").click()
    weights = (move(page, "weight_0", 9), *start.spec.weights[1:])
    lost = bench.diagnosis(start.changed(weights=weights)).lost
    shows(page, 'plots("signs").data[1].y', lost)
    [(route, old)] = held
    late = '() => JSON.stringify(document.querySelector("#ms-diag [data-figure=signs] .ms-plot").data[1].y)'
    now = page.evaluate(late)
    route.fulfill(response=old)
    page.wait_for_function(f"(now) => ({late})() !== now", arg=now)
    shows(page, 'plots("signs").data[1].y', lost)


def test_the_merge_tab_takes_the_values_over_and_the_other_way_round(
    open_page, bench: Workbench, start: Settings
) -> None:
    page = opened(open_page(rows=50, k=FEW))
    value = move(page, "scaling", 33)
    move(page, "weight_3", 15)
    page.get_by_role("button", name="Use these values on the Merge tab").click()
    page.get_by_role("tab", name="Merge").click()
    expect(page.locator("#ms-slider_0 input[type=range]")).to_have_value(f"{value:g}")
    expect(page.locator("#ms-weight_3 input[type=range]")).to_have_value("0.75")
    expect(page.locator(DONE)).to_contain_text(f"λ {value:g} ", timeout=150_000)
    expect(page.locator("#ms-recipe")).to_contain_text(f"scaling: {value:g}")
    page.get_by_role("tab", name="Diagnose").click()
    expect(slider(page, "scaling")).to_have_value(f"{value:g}")

    move(page, "scaling", 70)  # "what if": the Merge tab's next merge makes an end of it
    page.get_by_role("tab", name="Merge").click()
    page.get_by_role("combobox", name="Method").click()
    page.get_by_role("option", name="Average").click()
    expect(page.locator(DONE)).to_contain_text("Average", timeout=150_000)
    page.get_by_role("tab", name="Diagnose").click()
    expect(page.locator("#ms-diag-at-scaling")).to_be_hidden()
    weights = [float(slider(page, f"weight_{place}").input_value()) for place in range(8)]
    found = bench.diagnosis(start.changed(method="average", orthogonalize="off", decouple=0.0, weights=weights))
    shows(page, BARS, errors(found, weights, 1 / sum(weights)))


def test_leaving_one_adapter_out_starts_and_can_be_cancelled(open_page) -> None:
    page = opened(open_page(rows=50, k=FEW))
    cancel = page.locator("#ms-cancel-demand")
    expect(cancel).to_be_disabled()
    page.get_by_role("button", name="Leave one adapter out").click()
    expect(cancel).to_be_enabled()
    expect(page.locator("#ms-left-out figcaption")).to_contain_text(re.compile(r"\d+ of 14400 rows"), timeout=120_000)
    cancel.click()
    expect(cancel).to_be_disabled()
    page.get_by_role("button", name="Leave one layer out").click()
    expect(page.locator("#ms-left-out figcaption")).to_contain_text("without that layer of the merge", timeout=120_000)
    expect(cancel).to_be_enabled()
    cancel.click()
    expect(cancel).to_be_disabled()


def test_table_csv_and_png_hold_a_linked_figure(open_page) -> None:
    page = opened(open_page(k=FEW))
    card(page, "error").locator("summary").click()
    expect(card(page, "error").locator("table tr")).to_have_count(9)
    with page.expect_download() as download:
        card(page, "error").locator('[data-save="csv"]').click()
    assert download.value.suggested_filename == "mergescope_diagnose_error.csv"
    table = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert [float(row["error"]) for row in table] == drawn(page, BARS)
    assert [row["pinned"] for row in table] == [""] * 8
    with page.expect_download() as download:
        card(page, "magnitude").locator('[data-save="png"]').click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_critical_or_serious(open_page, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = opened(open_page(theme=theme, k=FEW))
    card(page, "pairs").locator("summary").click()
    click_cell(page, "pairs", column=3, row=1, shape=(8, 8))
    grave = [
        f"{violation['id']}: {node['html'][:160]}"
        for violation in Axe().run(page).response["violations"]
        if violation["impact"] in {"critical", "serious"}
        for node in violation["nodes"]
    ]
    assert grave == []


def test_every_control_can_be_reached_on_a_small_screen(open_page) -> None:
    page = open_page(width=1280, height=720, k=FEW)
    page.get_by_role("tab", name="Diagnose").click()
    use = page.locator("#ms-diag-use")
    use.scroll_into_view_if_needed()
    panel, button = (page.locator(place).bounding_box() for place in ("#ms-diag-controls", "#ms-diag-use"))
    assert panel["x"] <= button["x"]
    assert button["x"] + button["width"] <= panel["x"] + panel["width"]
    assert page.evaluate(
        "(({ scrollWidth, clientWidth }) => scrollWidth <= clientWidth)(document.querySelector('#ms-diag-controls'))"
    )


def test_a_phone_shows_the_panel_without_scrolling_sideways(open_page) -> None:
    page = opened(open_page(width=390, height=844, has_touch=True, k=FEW))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    tops = [page.locator(f"#ms-{name}").bounding_box()["y"] for name in ("diag-controls", "diag", "left-out")]
    assert tops == sorted(tops)
