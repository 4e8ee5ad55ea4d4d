"""Other bases, by clicking only: a language model that answers in words, and one that reads pictures and can only be
merged.
"""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright")
import torch
from pages import served
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from playwright.sync_api import Page, expect
from sklearn.datasets import load_digits
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

pytestmark = pytest.mark.slow

SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
MARKUP = '<img src=x onerror="document.title=1">'
LETTERS = ["<pad>", "<unk>", *map(chr, range(33, 127))]


def language_model(folder: Path, layers: int = 1) -> None:
    """Save a small random decoder that reads letters; one of many layers takes its time for every token."""
    torch.manual_seed(0)
    size = SIZE | {"vocab_size": len(LETTERS), "num_hidden_layers": layers, "max_position_embeddings": 2048}
    LlamaForCausalLM(LlamaConfig(**size)).save_pretrained(folder)
    letters = Tokenizer(models.WordLevel({letter: number for number, letter in enumerate(LETTERS)}, unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)


VISION = ViTConfig(image_size=8, patch_size=4, num_labels=10, **SIZE)


def vision_model(folder: Path) -> None:
    torch.manual_seed(0)
    ViTModel(VISION).save_pretrained(folder)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)


def adapter(base: Path, target: Path, seed: int, task_type: str | None = None, head: bool = False) -> Path:
    """Pack a random adapter that PEFT wrote for a base, with a classifier of pictures where one is asked for."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(base) if task_type else AutoModel.from_pretrained(base)
    if head:
        encoder, model = model, ViTForImageClassification(VISION)
        model.vit.load_state_dict(encoder.state_dict(), strict=False)
        model.name_or_path = str(base)
    saved = ["classifier"] if head else None
    options = {"target_modules": ["q_proj", "v_proj"], "task_type": task_type, "modules_to_save": saved}
    tuned = get_peft_model(model, LoraConfig(r=2 + seed, **options))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    tuned.save_pretrained(target.with_suffix(""))
    with zipfile.ZipFile(target, "w") as packed:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            packed.write(target.with_suffix("") / name, name)
    return target


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    language_model(folder / "tiny-writer")
    language_model(folder / "slow-writer", layers=120)
    vision_model(folder / "tiny-vit")
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def app_url(browser: object, bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    arguments = [word for place in bases.values() for word in ("--base", str(place))]
    with served(tmp_path_factory.mktemp("app"), "-m", "merging.cli", "app", *arguments) as url:
        yield url


def opened(page: Page, base: str, files: list[Path]) -> Page:
    """Choose a base on the Adapters tab and bring adapters."""
    page.get_by_role("tab", name="Adapters").click()
    page.get_by_label("Base model").first.click()
    page.locator(f'[role=option][aria-label="{base}"]:visible').click()
    expect(page.locator("#ms-base-note")).to_contain_text("parameters")
    page.get_by_role("button", name="Use this base").click()
    expect(page.locator("#ms-base-note")).to_contain_text("In use")
    page.locator("#ms-bring-files input[type=file]").set_input_files(files)
    expect(page.locator("[aria-label='Your adapters'] tbody tr")).to_have_count(len(files))
    return page


def test_a_language_model_answers_with_the_labels(open_page, bases: dict[str, Path], tmp_path: Path) -> None:
    files = [
        adapter(bases["tiny-writer"], tmp_path / f"{task}.zip", seed, "CAUSAL_LM")
        for seed, task in enumerate(("sms_spam", "trec"))
    ]
    page = opened(open_page(rows=50), "tiny-writer", files)
    expect(page.locator("#ms-base-note")).to_contain_text("decoder, answers in words")
    expect(page.locator("#ms-shelf-table .ms-grey")).to_have_count(0)
    page.get_by_role("button", name="Measure each alone").click()
    expect(page.locator("#ms-make-note")).to_contain_text("They are a pool now", timeout=200_000)
    page.get_by_role("tab", name="Merge").click()
    expect(page.locator("#ms-header")).to_contain_text("tiny-writer")
    expect(page.locator("#ms-accuracy .ms-plot")).to_contain_text("SMS spam")
    expect(page.locator('#ms-verdict [data-state="done"]')).to_be_visible(timeout=150_000)


def test_base_adapters_and_merge_chat_side_by_side(open_page, bases: dict[str, Path], tmp_path: Path) -> None:
    files = [
        adapter(bases["slow-writer"], tmp_path / f"{name}.zip", seed, "CAUSAL_LM") for seed, name in enumerate("ab")
    ]
    page = opened(open_page(rows=50), "slow-writer", files)
    page.get_by_role("button", name="Open all that fit without measuring").click()
    expect(page.locator("#ms-make-note")).to_contain_text("They are a pool now")
    page.get_by_role("tab", name="Try it").click()
    page.get_by_label("Prompt").fill(f"{MARKUP} cat")
    title = page.title()
    page.locator("#ms-chat-most input[type=number]").fill("4")
    page.locator("#ms-chat-most input[type=number]").press("Tab")
    page.get_by_role("button", name="Ask", exact=True).press("Enter")
    cards = page.locator("#ms-chat .ms-voice")
    expect(cards).to_have_count(4)
    expect(page.locator("#ms-chat-status [role=status]")).to_contain_text("tokens/s")
    assert [card.locator("h4").inner_text() for card in cards.all()] == ["base", "a", "b", "merge"]
    expect(page.locator("#ms-chat .ms-prompt")).to_have_text(f"{MARKUP} cat")
    assert page.title() == title
    assert page.locator("#ms-chat img").count() == 0
    page.locator("#ms-chat-most input[type=number]").fill("128")
    page.locator("#ms-chat-most input[type=number]").press("Tab")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#ms-chat-status")).to_contain_text("Answering")
    page.get_by_role("button", name="Stop", exact=True).press("Enter")
    expect(page.locator("#ms-chat-status [role=status]")).to_contain_text("Stopped")
    written = page.locator("#ms-chat-turns").inner_text()
    page.wait_for_timeout(700)
    assert page.locator("#ms-chat-turns").inner_text() == written
    assert "\n128 tokens" not in written
    assert "cut here" in written
    page.get_by_role("button", name="Clear the chat").click()
    expect(cards).to_have_count(0)
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_dropped_picture_is_answered_by_everybody(open_page, bases: dict[str, Path], tmp_path: Path) -> None:
    base = bases["tiny-vit"]
    files = [adapter(base, tmp_path / f"{name}.zip", seed, head=True) for seed, name in enumerate(("digits", "signs"))]
    page = opened(open_page(rows=50), "tiny-vit", files)
    page.get_by_role("button", name="Open all that fit without measuring").click()
    expect(page.locator("#ms-make-note")).to_contain_text("They are a pool now")
    page.get_by_role("tab", name="Try it").click()
    place = page.locator("#ms-try-picture")
    expect(place).to_be_visible()
    expect(page.locator("#ms-try-text")).to_be_hidden()
    seen = set()
    for scan in load_digits().images[:2]:
        Image.fromarray((scan * 15).astype("uint8")).resize((64, 64)).save(tmp_path / "digit.png")
        place.locator("input[type=file]").set_input_files(tmp_path / "digit.png")
        rows = page.locator("#ms-try-bars tbody tr")
        expect(rows).to_have_count(2)
        expect(rows.first).to_contain_text("label")
        expect(page.locator("#ms-try-summary")).to_contain_text("digits: merge says label")
        expect(page.locator("#ms-try-labels figcaption")).to_contain_text("how probable each label is")
        expect(page.locator("#ms-try-blame figcaption")).to_contain_text("of texts only")
        seen.add(rows.first.inner_text())
        place.get_by_role("button", name=re.compile("remove|clear", re.IGNORECASE)).click()
        expect(page.locator("#ms-try-summary")).to_contain_text("Write a text")
    assert len(seen) == 2


def test_what_reads_pictures_is_merged_looked_at_and_exported(
    open_page, bases: dict[str, Path], tmp_path: Path
) -> None:
    base = bases["tiny-vit"]
    files = [adapter(base, tmp_path / f"{name}.zip", seed) for seed, name in enumerate(("cars", "birds"))]
    page = opened(open_page(rows=50), "tiny-vit", files)
    page.get_by_role("button", name="Open all that fit without measuring").click()
    expect(page.locator("#ms-make-note")).to_contain_text("They are a pool now")
    page.get_by_role("tab", name="Merge").click()
    verdict = page.locator('#ms-verdict [data-state="unmeasured"]')
    expect(verdict).to_contain_text("merged, not measured")
    page.get_by_label("Method", exact=True).click()
    page.get_by_role("option", name="RegMean", exact=True).click()
    expect(page.get_by_text("opened without tasks").first).to_be_visible()
    page.get_by_label("Method", exact=True).click()
    page.get_by_role("option", name="TIES", exact=True).click()
    expect(page.locator("#ms-recipe")).to_contain_text("method: ties")
    page.get_by_role("tab", name="Diagnose").click()
    expect(page.get_by_text("nothing is measured on data")).to_be_visible()
    expect(page.locator("#ms-diagnose")).to_contain_text("birds")
    page.get_by_role("tab", name="Export").click()
    page.get_by_role("button", name="Write it").click()
    expect(page.locator("#ms-export-note")).to_contain_text("with model card")
    page.get_by_role("tab", name="Merge").click()
    page.get_by_role("tab", name="Export").click()  # the same merge still: its file stays
    expect(page.locator("#ms-export-about")).to_contain_text("as the Merge tab shows it")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download zip").click()
    download.value.save_as(tmp_path / "merged.zip")
    with zipfile.ZipFile(tmp_path / "merged.zip") as packed:
        packed.extractall(tmp_path / "out")
    [folder] = (tmp_path / "out").iterdir()
    pictures = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    plain = AutoModel.from_pretrained(base)
    with torch.no_grad():
        before = plain(pixel_values=pictures).last_hidden_state
        after = PeftModel.from_pretrained(plain, folder)(pixel_values=pictures).last_hidden_state
    assert float((after - before).norm()) > 1e-3
