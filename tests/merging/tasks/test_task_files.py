"""Tasks from files: what is guessed is what is there, and what is wrong is said with its place before anything is
kept."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from builders import one_sentence, quick
from hypothesis import given
from hypothesis import strategies as st

from merging import MergeError
from merging.tasks.files import preview, read_table
from merging.tasks.labelled import MAX_LABELS
from merging.tasks.records import opened
from merging.tasks.splitting import completed, row_of
from merging.tasks.task import fingerprint

LABELS = ("no", "yes")


def some_rows(count: int = 12) -> list[tuple[str, str]]:
    return [(f"made-up text number {i}", LABELS[i % 2]) for i in range(count)]


def written(folder: Path, content: str | bytes, name: str = "mine.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def as_text(kind: str, header: tuple[str, ...], rows: list[tuple]) -> str:
    if kind == "jsonl":
        return "".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows)
    out = io.StringIO()
    csv.writer(out, delimiter="\t" if kind == "tsv" else ",").writerows([header, *rows])
    return out.getvalue()


def holding(folder: Path, header: tuple[str, ...], rows: list[tuple], kind: str = "csv") -> Path:
    return written(folder, as_text(kind, header, rows), f"mine.{kind}")


# -- the rows are those of the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_a_file_in_any_format_is_the_same_task(kind: str, tmp_path: Path) -> None:
    task = read_table(holding(tmp_path, ("text", "label"), some_rows(), kind)).task()
    by_text = dict(some_rows())
    splits = (task.train, task.validation, task.test)
    assert {t: task.labels[i] for split in splits for t, i in zip(split.texts, split.labels, strict=True)} == by_text
    assert (task.name, task.labels, task.train.pairs) == ("mine", LABELS, None)
    assert fingerprint(task) == fingerprint(read_table(holding(tmp_path, ("text", "label"), some_rows(), "csv")).task())


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\ufeff"), min_size=1).filter(str.strip)


@quick
@given(
    st.lists(st.tuples(cells, st.sampled_from(LABELS)), min_size=1), st.sampled_from(["csv", "jsonl"]), st.booleans()
)
def test_any_text_that_a_library_writes_is_read_as_it_was(tmp_path_factory, rows: list, kind: str, mark: bool) -> None:
    rows += [("one", "no"), ("two", "yes")]
    folder = tmp_path_factory.mktemp("any")
    content = as_text(kind, ("text", "label"), rows).encode("utf-8-sig" if mark else "utf-8")
    table = read_table(written(folder, content, f"any.{kind}"))
    assert [*zip(table.texts, table.labels, strict=True)] == rows


def test_a_quote_in_a_tsv_file_is_a_sign_like_any_other(tmp_path: Path) -> None:
    content = 'text\tlabel\n"half open\tno\nsaid "so" twice\tyes\n'
    assert read_table(written(tmp_path, content, "mine.tsv")).texts == ['"half open', 'said "so" twice']


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_of_a_csv_file_is_that_of_its_header(delimiter: str, tmp_path: Path) -> None:
    content = f'text{delimiter}label\n"a;b,c\td"{delimiter}no\nplain{delimiter}yes\n'
    assert read_table(written(tmp_path, content)).texts == ["a;b,c\td", "plain"]
    assert preview(written(tmp_path, content)).delimiter == delimiter


def test_blank_lines_carriage_returns_and_line_ends_within_quotes_are_read_as_csv_means_them(tmp_path: Path) -> None:
    path = written(tmp_path, b'text,label\r\n\r\n"two\nlines",no\r\none,yes\r\n')
    assert read_table(path).texts == ["two\nlines", "one"]
    assert [line for line, _ in opened(path).rows] == [3, 5]


# -- columns -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "text", "pair", "label"),
    [
        (("id", "Sentence", "Label"), "Sentence", "", "Label"),
        (("label", "sentence1", "sentence2"), "sentence1", "sentence2", "label"),
        (("premise", "hypothesis", "target"), "premise", "hypothesis", "target"),
        (("text_a", "text_b", "label"), "text_a", "text_b", "label"),
        (("question", "sentence", "label"), "question", "sentence", "label"),
        (("question", "category", "text"), "text", "", "category"),
        (("review", "sentiment"), "review", "", "sentiment"),
        (("a", "b"), "", "", ""),
    ],
)
def test_usual_names_are_guessed_and_the_guess_is_told(
    header: tuple, text: str, pair: str, label: str, tmp_path: Path
) -> None:
    rows = [tuple(f"cell {i} {j}" for j in range(len(header))) for i in range(3)]
    found = preview(holding(tmp_path, header, rows))
    assert (found.chosen.text, found.chosen.pair, found.chosen.label, found.chosen.split) == (text, pair, label, "")
    assert set(found.guessed) == {role for role, column in asdict(found.chosen).items() if column}
    assert bool(found.problem) == (not text)


def test_named_columns_go_before_guesses_and_an_empty_name_means_none(tmp_path: Path) -> None:
    header = ("premise", "hypothesis", "label", "other", "split")
    path = holding(tmp_path, header, [(f"p{i}", f"h{i}", LABELS[i % 2], LABELS[(i + 1) % 2], "mine") for i in range(6)])
    table = read_table(path, text="hypothesis", label="other", split="")
    assert (table.texts[0], table.labels[0], table.pairs, table.splits) == ("h0", "yes", None, None)
    table = read_table(path, pair="", split="", text="premise")
    assert (table.texts[0], table.pairs) == ("p0", None)
    table = read_table(path, text="hypothesis", pair="premise", split="")
    assert (table.texts[0], (table.pairs or ())[0]) == ("h0", "p0")


def test_a_wrong_column_lists_those_that_there_are(tmp_path: Path) -> None:
    path = holding(tmp_path, ("body", "mood"), some_rows())
    for arguments in ({"text": "text"}, {"text": "body", "label": "label"}, {"split": "fold"}):
        with pytest.raises(MergeError, match="body, mood") as caught:
            read_table(path, **arguments)
        assert one_sentence(caught.value, "mine.csv", [*arguments.values()][-1])
    with pytest.raises(MergeError, match="no column text and no column label: its columns are body, mood"):
        read_table(path)
    with pytest.raises(MergeError, match="two things"):
        read_table(path, text="body", label="body")


def test_labels_are_ordered_as_numbers_as_names_or_as_told(tmp_path: Path) -> None:
    numbers = holding(tmp_path, ("text", "label"), [(f"t{i}", i % 11) for i in range(33)])
    assert read_table(numbers).classes == tuple(map(str, range(11)))
    mixed = holding(tmp_path, ("text", "label"), [("a", "10"), ("b", "9"), ("c", "x")])
    assert read_table(mixed).classes == ("10", "9", "x")
    told = holding(tmp_path, ("text", "label"), some_rows())
    assert read_table(told, classes=("yes", "no")).task().labels == ("yes", "no")
    for i, rows in enumerate(([1, 0] * 6, [1.0, 0.0] * 6, [True, False] * 6)):
        path = holding(tmp_path, ("text", "label"), [(f"t{n}", value) for n, value in enumerate(rows)], "jsonl")
        assert read_table(path).classes == (("0", "1"), ("0", "1"), ("False", "True"))[i]


# -- splits ------------------------------------------------------------------------------------------------------------


def test_an_own_split_column_is_kept(tmp_path: Path) -> None:
    names = ["train"] * 6 + ["dev"] * 3 + ["TEST"] * 3
    rows = [(*row, split) for row, split in zip(some_rows(), names, strict=True)]
    task = read_table(holding(tmp_path, ("text", "label", "split"), rows)).task()
    assert set(task.validation.texts) == {row[0] for row in rows[6:9]}
    assert set(task.test.texts) == {row[0] for row in rows[9:]}


def test_a_missing_validation_split_comes_from_train_by_class_with_duplicates_together() -> None:
    rows = [row_of(f"text {i % 40}", i % 2) for i in range(80)] + [row_of(f"test {i}", i % 2) for i in range(10)]
    splits = completed(rows, ["train"] * 80 + ["test"] * 10) or []
    counts = Counter((split, row.label) for split, row in zip(splits, rows, strict=True))
    assert counts["validation", 0] == counts["validation", 1] == 8  # 4 of 20 texts, each twice
    assert splits[80:] == ["test"] * 10
    held_out = {row.key for row, split in zip(rows, splits, strict=True) if split == "validation"}
    assert not held_out & {row.key for row, split in zip(rows, splits, strict=True) if split == "train"}
    assert completed(rows[::-1], ["test"] * 10 + ["train"] * 80) == splits[::-1]


def test_without_a_test_split_validation_is_the_test() -> None:
    rows = [row_of(f"text {i}", i % 2) for i in range(20)]
    splits = completed(rows, ["train"] * 15 + ["validation"] * 5) or []
    assert splits[15:] == ["test"] * 5
    assert Counter(splits[:15])["validation"] == 2  # one of each class
    assert completed(rows, ["train"] * 20) is None


# -- a look before -----------------------------------------------------------------------------------------------------


def test_a_preview_counts_what_reading_finds(tmp_path: Path) -> None:
    rows = [(*row, "train") for row in some_rows(40)]
    path = holding(tmp_path, ("text", "label", "split"), rows, "tsv")
    found = preview(path)
    assert (found.rows, found.labels, found.splits) == (40, {"no": 20, "yes": 20}, {"train": 40})
    assert found.first == tuple(rows[:5])
    assert (found.columns, found.format, found.problem) == (("text", "label", "split"), "tsv", "")
    assert json.loads(json.dumps(asdict(found)))["chosen"]["text"] == "text"


def test_a_preview_of_a_bad_row_counts_on_and_says_the_first_problem(tmp_path: Path) -> None:
    path = holding(tmp_path, ("text", "label"), [*some_rows(10), ("", "no"), ("more", ""), *some_rows(10)])
    found = preview(path)
    assert (found.rows, found.labels) == (22, {"no": 10, "yes": 10})
    with pytest.raises(MergeError) as caught:
        read_table(path)
    assert found.problem == str(caught.value)
    assert "line 12 has no text" in found.problem


def test_a_long_cell_is_cut_in_the_preview_only(tmp_path: Path) -> None:
    path = holding(tmp_path, ("text", "label"), [("x" * 5000, "no"), ("y", "yes")])
    assert len(preview(path).first[0][0]) == 200
    assert len(read_table(path).texts[0]) == 5000


# -- samples -----------------------------------------------------------------------------------------------------------


def test_a_sample_is_stratified_repeatable_and_only_taken_when_asked(tmp_path: Path) -> None:
    rows = [(f"text {i}", "rare" if i % 50 == 0 else LABELS[i % 2]) for i in range(1000)]
    path = holding(tmp_path, ("text", "label"), rows)
    assert len(read_table(path)) == 1000
    table = read_table(path, rows=100)
    assert (len(table), Counter(table.labels)["rare"]) == (100, 2)
    assert set(zip(table.texts, table.labels, strict=True)) <= set(rows)
    assert read_table(path, rows=100).texts == table.texts != read_table(path, rows=100, seed=1).texts
    backwards = read_table(holding(tmp_path, ("text", "label"), rows[::-1]), rows=100)
    assert set(backwards.texts) == set(table.texts)
    assert "rare" in read_table(path, rows=5).labels
    with pytest.raises(MergeError, match="rows = 0"):
        read_table(path, rows=0)


# -- refusals ----------------------------------------------------------------------------------------------------------

START = as_text("csv", ("text", "label"), some_rows())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (START + ",no\n", "line 14 has no text"),
        (START + "   ,no\n", "line 14 has no text"),
        (START + "something,\n", "line 14 has no label"),
        (START + "a,no,b\n", "line 14 has 3 cells, the header 2"),
        (START + "alone\n", "line 14 has 1 cells, the header 2"),
        (START + '"open,no\n' + "more,yes\n" * 50, "line 14 is never closed"),
        (START + '"open,no\n' + "more,yes\n" * 50_000, r"line 14 has more than 131,072 characters; perhaps a quote"),
        (START + '"closed" too soon,no\n', "line 14 goes on after its closing quote"),
        ("text,label\na,same\nb,same\n", "only the label 'same'"),
        ("text,label\n", "no row"),
        ("text,label\n" + "".join(f"t,{i}\n" for i in range(MAX_LABELS + 1)), "more than 500 different labels"),
        ("text,text\na,b\n", "two columns called 'text'"),
        ("", "is empty"),
        ("text,label,split\na,no,somewhere\n", "line 2 is in split 'somewhere'"),
        (b"text,label\ncaf\xe9,no\n", r"not UTF-8 text \(byte 14, counted from 0\)"),
        (("x" * (1 << 20)).encode()[:-1] + "é".encode() + b"\xff", r"not UTF-8 text \(byte 1,048,577"),
        (b"text,label\nends in the middle of \xc3", r"not UTF-8 text \(byte 33"),
        ("text,label\ncafé,no\n".encode("utf-16"), r"not UTF-8 text \(byte 0"),
        (b"text,label\na\0b,no\n", r"NUL byte \(byte 12"),
    ],
)
def test_a_bad_file_is_refused_with_one_sentence(content: str | bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(MergeError, match=words) as caught:
        read_table(written(tmp_path, content))
    assert one_sentence(caught.value, "mine.csv")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": "a", "label"', "line 3 is not valid JSON"),
        ("[1, 2]", "line 3 holds a list"),
        ("[" * 100_000, "line 3 is not valid JSON"),
        ('{"text": "a", "label": ' + "9" * 5000 + "}", "line 3 is not valid JSON"),
        ('{"text": "a"}', r"line 3 has no label \(it is None\)"),
        ('{"text": "a", "label": null}', "line 3 has no label"),
        ('{"text": "a", "label": NaN}', "line 3 has no label"),
        ('{"text": "a", "label": 0.5}', "neither a name nor a whole number"),
        ('{"text": "a", "label": [1]}', "neither a name nor a whole number"),
        ('{"text": 7, "label": "no"}', r"line 3 has no text \(it is '7'\)"),
        ('{"text": "\\ud800", "label": "no"}', "line 3 has half of a surrogate pair"),
        ('{"label": "no"}', "line 3 has no text"),
    ],
)
def test_a_bad_json_line_is_named_by_its_number(line: str, words: str, tmp_path: Path) -> None:
    content = '{"text": "x", "label": "no"}\n\n' + line + '\n{"text": "y", "label": "yes"}\n'
    with pytest.raises(MergeError, match=words) as caught:
        read_table(written(tmp_path, content, "mine.jsonl"))
    assert one_sentence(caught.value, "mine.jsonl")


def test_an_unknown_label_is_named_by_its_line(tmp_path: Path) -> None:
    path = holding(tmp_path, ("text", "label"), [*some_rows(), ("odd", "maybe")])
    with pytest.raises(MergeError, match="line 14 has the label 'maybe', which is none of no, yes"):
        read_table(path, classes=LABELS)


def test_a_huge_file_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.csv"
    with path.open("wb") as stream:
        stream.truncate(2_000_000_000)  # holes only: reading it would find a NUL byte
    with pytest.raises(MergeError, match="2,000,000,000 bytes: at most 200 MB") as caught:
        read_table(path)
    assert one_sentence(caught.value, "huge.csv")


def test_what_is_no_file_or_no_known_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MergeError, match="There is no file"):
        read_table(tmp_path / "nowhere.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(MergeError, match="There is no file"):
        read_table(tmp_path / "folder.csv")
    with pytest.raises(MergeError, match=r"unknown format '\.xlsx'"):
        read_table(written(tmp_path, START, "mine.xlsx"))
    assert len(read_table(written(tmp_path, START, "mine.txt"), format="csv")) == 12
