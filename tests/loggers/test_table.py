"""Tables in the formats that loggers take."""

import csv

from lightning_soups.loggers.table import Table

TABLE = Table(
    ["name", "score", "lr", "flag"],
    [["a|b", 0.123456789, 0.1, True], ["two\nlines", None, "auto", False], ["c", 1, None, None]],
)


def test_markdown() -> None:
    assert TABLE.to_markdown().splitlines() == [
        "| name | score | lr | flag |",
        "| --- | --- | --- | --- |",
        "| a\\|b | 0.123457 | 0.1 | True |",
        "| two lines |  | auto | False |",
        "| c | 1 |  |  |",
    ]


def test_csv_has_all_digits() -> None:
    rows = list(csv.reader(TABLE.to_csv().splitlines(keepends=True)))
    assert rows[:2] == [["name", "score", "lr", "flag"], ["a|b", "0.123456789", "0.1", "True"]]
    assert rows[2] == ["two\nlines", "", "auto", "False"]


def test_columns_of_one_type() -> None:
    assert TABLE.typed_rows == [
        ["a|b", 0.123456789, "0.1", True],
        ["two\nlines", None, "auto", False],
        ["c", 1, None, None],
    ]
    assert Table(["mixed"], [[True], [1.5]]).typed_rows == [["True"], ["1.5"]]
    assert Table(["nothing"], []).typed_rows == []
