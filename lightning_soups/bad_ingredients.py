"""Ingredients that cannot be used: what is wrong with each, and whether to refuse to go on or to leave them out."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_soups.paths import AnyPath
from lightning_soups.visible import visible

OnBadIngredient = Literal["error", "skip"]


class LeftOut(NamedTuple):
    """An ingredient that is not used.

    Args:
        path: The checkpoint; the record, when that cannot be read.
        run: The run that wrote it, as far as it is known.
        reason: What is wrong with it, in words.
        is_copy: Whether all that is wrong is that another ingredient has the same weights. Copies are left out whatever
            the policy, for nothing is lost by it.
    """

    path: AnyPath
    run: str
    reason: str
    is_copy: bool = False


class BadIngredientError(ValueError):
    """Ingredients cannot be used.

    Args:
        bad: Which, and why.
        all_of_them: Whether none is left to go on with.
    """

    def __init__(self, bad: Iterable[LeftOut], all_of_them: bool = False) -> None:
        self.bad = tuple(bad)
        self.all_of_them = all_of_them
        count = "1 ingredient" if len(self.bad) == 1 else f"{len(self.bad)} ingredients"
        advice = (
            "None is left."
            if all_of_them
            else "Mend or remove what is wrong, or pass on_bad_ingredient='skip' to leave such ingredients out."
        )
        super().__init__(f"{count} cannot be used:\n{listed(self.bad)}\n{advice}")

    def __reduce__(self) -> tuple[type["BadIngredientError"], tuple[tuple[LeftOut, ...], bool]]:
        return type(self), (self.bad, self.all_of_them)  # from another process it comes with what it says


def validate_on_bad_ingredient(value: str) -> OnBadIngredient:
    """Check a user's choice.

    Raises:
        ValueError: It is none of the choices.
    """
    for choice in get_args(OnBadIngredient):
        if value == choice:
            return choice  # type: ignore[no-any-return]
    raise ValueError(f"`on_bad_ingredient` must be one of {list(get_args(OnBadIngredient))}, got {value!r}.")


def settle(bad: Sequence[LeftOut], on_bad_ingredient: OnBadIngredient, left: int) -> None:
    """Refuse to go on, or say once what is left out.

    Args:
        bad: All that cannot be used.
        on_bad_ingredient: Whether to go on without them.
        left: How many other ingredients there are.

    Raises:
        BadIngredientError: There are bad ones, copies aside, and the policy is ``error``; or none is left.
    """
    worse = [one for one in bad if not one.is_copy]
    if bad and left == 0:
        raise BadIngredientError(worse or bad, all_of_them=True)
    if worse and on_bad_ingredient == "error":
        raise BadIngredientError(worse)
    if bad:
        rank_zero_warn(f"Left out of {len(bad) + left} ingredients, {len(bad)}:\n{listed(bad)}")


def reason_of(error: BaseException) -> str:
    """What an error says of one file, on one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def listed(bad: Iterable[LeftOut]) -> str:
    """A line each: the path and the reason, which need not name the path again."""
    return "\n".join(f"  {str(one.path)!r}: {visible(one.reason)}" for one in bad)
