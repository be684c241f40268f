import math

import pytest
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar

from lightning_soups import SoupTrainer
from tests.helpers import Blobs, Classifier, record, trainer


@pytest.mark.parametrize("bar", [RichProgressBar, TQDMProgressBar])
def test_one_bar_for_the_recipe_and_none_of_lightnings(tmp_path, capsys, bar) -> None:
    record(tmp_path, [0.1, 0.3])
    capsys.readouterr()
    cooking = trainer(SoupTrainer, enable_progress_bar=True, callbacks=[bar()])
    soup = cooking.cook(Classifier(), datamodule=Blobs(), ingredients=tmp_path)
    printed = "".join(capsys.readouterr())
    assert "GreedySoup" in printed
    assert "1 of 1, 1 kept" in printed or "1 of 1, 2 kept" in printed
    assert f"best {soup.score}" in printed
    assert " of samples saved" in printed
    assert " batch " in printed
    assert "Validation" not in printed
    assert cooking.progress_bar_callback.is_enabled
    cooking.validate(Classifier(), datamodule=Blobs(), verbose=False)
    assert "Validation" in "".join(capsys.readouterr())


def test_it_is_quiet_when_lightnings_bar_is_off(tmp_path, capsys) -> None:
    record(tmp_path, [0.1])
    for options in ({}, {"enable_progress_bar": True, "callbacks": [TQDMProgressBar(refresh_rate=0)]}):
        capsys.readouterr()
        trainer(SoupTrainer, **options).cook(Classifier(), datamodule=Blobs(), ingredients=tmp_path)
        assert "GreedySoup" not in "".join(capsys.readouterr())


def test_loaders_without_a_length(tmp_path) -> None:
    record(tmp_path, [0.1, 0.3])

    class Endless:
        def __iter__(self):
            return iter(Blobs().val_dataloader())

    soup = trainer(SoupTrainer, enable_progress_bar=True).cook(Classifier(), Endless(), ingredients=tmp_path)
    assert soup.trace[0].samples == 101 + 32  # the first batch again, regrouped, to see whether that matters
    assert math.isfinite(soup.score.value)
