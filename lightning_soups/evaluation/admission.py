"""Which ingredients are let in: what is found before any work is done, agreed on by all processes."""

from collections.abc import Iterable
from dataclasses import replace

from lightning_soups.bad_ingredients import LeftOut, settle
from lightning_soups.evaluation.agreement import damaged, found_by_any
from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.evaluation.session import HeldOutQuestions
from lightning_soups.judging import bad_scores, other_initializations, other_monitors
from lightning_soups.mixing import Mixer


def admit(questions: HeldOutQuestions, loop: KeptLoop, check_content: bool = False) -> tuple[HeldOutQuestions, Mixer]:
    """Open all ingredients and leave out, or refuse, those that cannot be used; every process must call this.

    Args:
        questions: With all ingredients.
        loop: The kept loop, running, before anything is written into the live module.
        check_content: Whether to read all that the ingredients hold as well, instead of at its first use.

    Returns:
        The same with the ingredients that are let in, and what has opened them.

    Raises:
        BadIngredientError: The policy is to refuse, or no ingredient is left.
        MisconfigurationException: Adapters cannot be used with this module, strategy or selection.
    """
    found = questions.shared(loop.trainer.strategy).ingredients
    while True:
        if not found:
            settle(found.left_out, questions.on_bad_ingredient, 0)
        questions = replace(questions, ingredients=found)
        mixer = questions.mixer(loop)
        bad = found_by_any(loop, mixer.open_all(found))
        found = found.without(bad)
        if mixer.holds_weights or not bad:
            break  # adapters are opened anew without the bad ones: the first ones say what the base is
    found = found.without(bad_scores(found, questions.monitor, finite=not questions.takes_diverged))
    if questions.monitor_of_most:
        found = found.without(other_monitors(found, questions.monitor))
    if questions.on_bad_ingredient == "skip" or not questions.tests_each:
        found = found.without(other_initializations(found))
    if check_content and (questions.on_bad_ingredient == "skip" or not _worse(found.left_out)):
        found = found.without(damaged(loop, mixer, found))
    settle(found.left_out, questions.on_bad_ingredient, len(found))
    for ingredient in set(questions.ingredients) - set(found):
        mixer.close(ingredient)
    return replace(questions, ingredients=found), mixer


def _worse(left_out: Iterable[LeftOut]) -> bool:
    return any(not one.is_copy for one in left_out)
