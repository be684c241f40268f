"""Which logged test metric is reported, and of which dataset."""

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_soups.evaluation.reported import Reported
from lightning_soups.logged import Logged


def logged(*names: str, dataloaders: int = 2) -> dict[str, Logged]:
    """What Lightning makes of names that a module logs for each dataloader."""
    found = {}
    for index in range(dataloaders):
        for number, name in enumerate(names):
            key = f"{name}/dataloader_idx_{index}" if dataloaders > 1 else name
            found[key] = Logged(index + number / 10, "max", name, index if dataloaders > 1 else None)
    return found


def by_name(**values: tuple[int, float]) -> dict[str, Logged]:
    """What it makes of names that say which dataset they are of."""
    return {
        key.replace("__", "/"): Logged(value, None, key.replace("__", "/"), at) for key, (at, value) in values.items()
    }


@pytest.mark.parametrize(
    ("monitor", "name"),
    [
        ("val_acc", "test_acc"),
        ("acc/val", "acc/test"),
        ("valid_loss", "test_loss"),
        ("validation_acc", "test_acc"),
        ("validation/acc_val", "test/acc_test"),
        ("valAcc", "testAcc"),
        ("val_interval_validity", "test_interval_validity"),
        ("val_acc/dataloader_idx_0", "test_acc"),
        ("acc/dataloader_idx_12", "acc"),
        ("f1", "f1"),
    ],
)
def test_the_counterpart_of_the_monitor(monitor: str, name: str) -> None:
    found = logged("other", name)
    reported = Reported(found, 2, None, monitor, None)
    assert (reported.metric, reported.mode, reported.datasets) == (name, "max", ("test 0", "test 1"))
    assert reported.values(found) == {"test 0": 0.1, "test 1": 1.1}
    assert reported.logged_names(found) == [name, name]


def test_names_after_a_slash_are_those_of_the_datasets() -> None:
    found = by_name(
        test_acc__plain=(0, 0.9), test_acc__noisy=(1, 0.7), test_loss__plain=(0, 0.3), test_loss__noisy=(1, 0.5)
    )
    reported = Reported(found, 2, None, "val_acc", None)
    assert reported.datasets == ("plain", "noisy")
    assert reported.mode is None
    assert reported.values(found) == {"plain": 0.9, "noisy": 0.7}
    assert Reported(found, 2, "test_loss", "val_acc", ("a", "b")).values(found) == {"a": 0.3, "b": 0.5}


def test_what_is_logged_at_the_end_of_the_epoch_is_matched_by_name() -> None:
    values = {"noisy": 0.7, "plain": 0.9}
    found = {f"test_acc/{name}": Logged(value, "max", f"test_acc/{name}") for name, value in values.items()}
    found["test_loss"] = Logged(0.3, "min", "test_loss")
    reported = Reported(found, 2, None, "val_acc", None)
    assert (reported.metric, reported.mode, reported.like_monitor) == ("test_acc", "max", True)
    assert (reported.datasets, reported.of_known_loaders) == (("noisy", "plain"), False)
    assert reported.values(found) == values
    named = Reported(found, 2, "test_acc", "val_f1", ("plain", "noisy"))
    assert (named.datasets, named.of_known_loaders) == (("plain", "noisy"), True)
    assert named.values(found) == values
    assert named.logged_names(found) == ["test_acc/plain", "test_acc/noisy"]
    with pytest.raises(MisconfigurationException, match=r"has to list \['noisy', 'plain'\].*got \['a', 'b'\]"):
        Reported(found, 2, None, "val_acc", ("a", "b"))
    with pytest.raises(MisconfigurationException, match="for each of the 3 test dataloaders"):
        Reported(found, 3, None, "val_acc", None)


def test_one_dataloader_needs_no_index() -> None:
    found = logged("test_acc", dataloaders=1)
    assert Reported(found, 1, None, "val_acc", None).datasets == ("test",)
    assert Reported(found, 1, None, "val_acc", ("imagenet",)).values(found) == {"imagenet": 0.0}


def test_an_exact_name_counts_before_a_longer_one() -> None:
    found = {
        "test_acc": Logged(0.5, "max", "test_acc", None),
        "test_acc/head": Logged(0.1, "max", "test_acc/head", None),
    }
    assert Reported(found, 1, None, "val_acc", None).values(found) == {"test": 0.5}


@pytest.mark.parametrize(
    ("found", "arguments", "message"),
    [
        (logged("loss"), (2, None, "val_acc", None), r"'val_acc' or 'test_acc' was not logged .* 2 test dataloaders"),
        (
            logged("test_acc"),
            (2, "acc", "val_acc", None),
            r"'acc' was not logged .*Choose what to report with `metric`",
        ),
        (logged("test_acc"), (2, None, "val_acc", ("a",)), r"a different name for each of the 2 .*, got \['a'\]"),
        (logged("test_acc"), (2, None, "val_acc", ("a", "a")), r"got \['a', 'a'\]"),
        (
            by_name(test_acc__a=(0, 0.9), test_acc__b=(0, 0.7), test_acc__c=(1, 0.7)),
            (2, None, "val_acc", None),
            "Dataloader 0 has several values of 'test_acc'",
        ),
        (by_name(test_acc__a=(0, 0.9)), (2, None, "val_acc", None), "was not logged in test_step for each of the 2"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(found: dict[str, Logged], arguments: tuple, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        Reported(found, *arguments)
