import io
from pathlib import Path

from rich.console import Console, RenderableType

from lightning_soups import Ingredient, Ingredients, Mixture, Soup
from lightning_soups.score import Score
from lightning_soups.studies import StudyResult
from lightning_soups.tables import ingredients_table, show_score, show_value, study_table, trace_table
from lightning_soups.trace import Question


def ingredient(run: str, score: float | None, mode: str = "min", **hyperparameters) -> Ingredient:
    known = {} if score is None else {"metrics": {"loss": score}, "monitor": "loss", "mode": mode}
    return Ingredient(Path(f"{run}/x.ckpt"), run, hyperparameters=hyperparameters, **known)


A, B, C = (
    ingredient(run, score, lr=lr, wd=0.1) for run, score, lr in [("a", 0.3, 0.1), ("b", 0.1, 0.2), ("c", 0.2, 1)]
)


def text(table: RenderableType, width: int = 100) -> list[list[str]]:
    file = io.StringIO()
    Console(width=width, file=file).print(table)
    lines = [line.split() for line in file.getvalue().splitlines()]
    return [line for line in lines if line]


def test_ingredients_show_what_differs() -> None:
    found = Ingredients([A, ingredient("d", None), B, C]).best_first()
    lines = text(ingredients_table(found, "Title"))
    assert lines[0] == ["Title"]
    assert lines[1] == ["#", "ingredient", "loss", "lr", "wd"]
    assert lines[3:] == [
        ["1", "b", "0.1000", "0.2", "0.1"],
        ["2", "c", "0.2000", "1", "0.1"],
        ["3", "a", "0.3000", "0.1", "0.1"],
        ["4", "d", "-", "-", "-"],
    ]
    other = Ingredient(Path("e/x.ckpt"), "e", metrics={"acc": 0.9}, monitor="acc", mode="max")
    assert Ingredients([A, other, B]).best_first() == [A, other, B]
    assert text(ingredients_table([A, B], "Title"))[1] == ["#", "ingredient", "loss", "lr"]


def test_the_trace_reads_like_the_recipe() -> None:
    def row(
        mixture: Mixture, value: float, accepted: bool | None = None, cached: bool = False, early: bool = False
    ) -> Question:
        return Question(mixture, Score(value, "min"), accepted, 4, 0 if cached else 100, 0.1, cached, early)

    start = Mixture.uniform([B])
    trace = [
        row(Mixture.uniform([A]), 0.3),
        row(start, 0.1),
        row(Mixture.uniform([C]), 0.2),
        row(start, 0.1, cached=True),
        row(start.add(C), 0.05, True),
        row(start.add(C).add(A), 0.4, False, early=True),
    ]
    common = {"monitor": "loss", "metrics": {}, "trace": trace, "recipe": "GreedySoup", "candidates": [A, B, C]}
    lines = text(trace_table(Soup(start.add(C), Score(0.05, "min"), **common)))
    assert lines[3:] == [
        ["3", "single", "ingredients", "0.1000", "to", "0.3000", "ranked", "300"],
        ["b", "0.1000", "start", "known"],
        ["1", "kept", "+", "c", "0.0500", "kept", "100"],
        ["2", "kept", "+", "a", "≥", "0.4000", "left", "out", "100"],
        ["500", "samples", "evaluated", "for", "these", "questions"],
        ["≥:", "left", "out", "early,", "more", "was", "out", "of", "reach"],
    ]
    trace[:4] = [row(start, 0.1), row(Mixture.uniform([C]), 0.2, cached=True), row(start, 0.1, cached=True)]
    lines = text(trace_table(Soup(start.add(C), Score(0.05, "min"), **common)))
    assert lines[3] == ["2", "single", "ingredients", "0.1000", "to", "0.2000", "ranked", "as", "recorded", "100"]


def test_numbers_are_short_and_tell_close_ones_apart() -> None:
    assert show_score(0.97166) == "0.9717"
    assert show_score(1.5e-5) == "1.5e-05"
    assert show_score(123456.0) == "1.235e+05"
    assert show_score(None) == "-"
    assert show_value(0.0012345) == "0.00123"
    assert show_value("adam") == "adam"


def test_eight_columns_fit_a_terminal_of_eighty_characters() -> None:
    many = [
        ingredient(
            f"trial-{i:03d}",
            0.5,
            "max",
            lr=0.00123 * (i + 1),
            weight_decay=0.0123 * (i + 1),
            mixup=0.1 * i,
            augment=i,
            max_epochs=10 * i,
        )
        for i in range(3)
    ]
    (last,) = [line for line in text(ingredients_table(many, "t"), width=80) if "trial-002" in line]
    assert last == ["3", "trial-002", "0.5000", "0.00369", "0.0369", "0.2", "2", "20"]


def test_a_studys_table_ends_after_forty_rows() -> None:
    def shown(count: int) -> list[list[str]]:
        rows = tuple({"pair": f"run {number} and others", "acc": number / 1000} for number in range(count))
        return text(
            study_table(StudyResult("Pairs", {}, rows, (), {}, {}, "m", "acc", "max", (), (), (), (), {}, "now"))
        )

    assert len(shown(40)) == 43
    lines = shown(200)
    assert lines[42] == ["run", "39", "and", "others", "0.0390"]
    assert " ".join(word for line in lines[43:] for word in line) == "… and 160 more rows, which the CSV file has"
