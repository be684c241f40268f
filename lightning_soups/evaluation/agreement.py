"""What is wrong with ingredients, found by every process for itself and agreed on by all."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from lightning_soups.bad_ingredients import LeftOut
from lightning_soups.evaluation.kept_loop import KeptLoop
from lightning_soups.evaluation.monitored import on_all_processes
from lightning_soups.ingredient import Ingredient
from lightning_soups.mixing import Mixer

_THREADS = 4  # hashing releases the interpreter


def damaged(loop: KeptLoop, mixer: Mixer, ingredients: Iterable[Ingredient]) -> list[LeftOut]:
    """Check the content of ingredients before it is used; every process must call this, and all get the same answer.

    Args:
        loop: The kept loop, running.
        mixer: Has opened them.
        ingredients: Which.
    """
    asked = list(ingredients)
    with ThreadPoolExecutor(_THREADS) as threads:
        reasons = list(threads.map(mixer.problem, asked)) if len(asked) > 1 else [mixer.problem(one) for one in asked]
    own = [LeftOut(one.path, one.run, why) for one, why in zip(asked, reasons, strict=True) if why is not None]
    return found_by_any(loop, own)


def found_by_any(loop: KeptLoop, own: Sequence[LeftOut]) -> list[LeftOut]:
    """What any process found wrong, once each; every process must call this.

    Args:
        loop: The kept loop, running.
        own: What this one found.
    """
    if on_all_processes(loop, not own):
        return []
    strategy, everyone = loop.trainer.strategy, range(loop.trainer.world_size)
    found = [one for rank in everyone for one in strategy.broadcast(list(own), src=rank)]
    return list({str(one.path): one for one in reversed(found)}.values())[::-1]
