"""Candidates are written into the live parameters, in place and from a running sum where that is possible."""

from collections.abc import Callable

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from lightning_soups.evaluation.sharded_module import Shards, is_sharded, load_whole
from lightning_soups.evaluation.staging import Staging
from lightning_soups.ingredient import Ingredient
from lightning_soups.mixing import Mixer
from lightning_soups.mixture import Mixture
from lightning_soups.weights.averaging import StateDict, whole
from lightning_soups.weights.kinds import is_in_memory, same_bytes
from lightning_soups.weights.running_sum import RunningSum


class LiveWeights:
    """Writes mixtures into the module that is being evaluated.

    The first mixture is loaded the way Lightning loads a checkpoint, with ``on_load_checkpoint``, ``strict_loading``
    and the strategy's own method. If the live tensors then hold just what was mixed, loading is plain copying for this
    module, and from then on mixtures are written directly. Of a uniform one the float64 sum of its first members is
    kept, so a greedy candidate costs one ingredient to read, however many members the soup has.

    Of a module whose parameters are shared out among processes each process reads and mixes the parts that it holds.

    Args:
        trainer: The trainer, its module set up on its device.
        mixer: Opens and mixes ingredients.
        staging: Reads ingredients ahead.
    """

    def __init__(self, trainer: Trainer, mixer: Mixer, staging: Staging) -> None:
        self._trainer = trainer
        self._mixer = mixer
        self._staging = staging
        device = trainer.strategy.root_device
        self._sum_device = device if device.type in ("cpu", "cuda") else torch.device("cpu")  # MPS has no float64
        self._forget_sum()
        self._last: tuple[Ingredient, ...] = ()
        self._direct = False
        self._tried = False
        self._shards: Shards | None = None
        self._part: Callable[[StateDict], StateDict] = whole

    def write(self, mixture: Mixture) -> None:
        """Make the live module that mixture.

        Raises:
            MisconfigurationException: The ingredients do not fit the module.
            ValueError: An ingredient cannot be read safely, or they do not fit each other.
        """
        if not self._tried and is_sharded(self._trainer.lightning_module):
            self._find_shards(mixture)
        if not self._direct:
            self._load(mixture)
        elif mixture.is_uniform and self._mixer.holds_weights and self._worth_keeping(mixture.members):
            self._write_uniform(mixture.members)
        else:
            self._forget_sum()
            self._mixer.write(mixture, self._live(), self._sum_device, self._part)

    def _worth_keeping(self, members: tuple[Ingredient, ...]) -> bool:
        """Whether to have the sum of all members but the last, which takes the memory of two models.

        It pays when it grows by one at a time, or when another candidate is mixed with the same ones again.
        """
        kept, before = frozenset(members[:-1]), self._last
        self._last = members
        again = kept == frozenset(before[:-1]) and members[-1:] != before[-1:]
        return again or (self._members <= kept and len(kept) <= len(self._members) + 1)

    def _forget_sum(self) -> None:
        self._members: frozenset[Ingredient] = frozenset()
        self._sum = RunningSum(self._sum_device, self._mixer.release)

    def _write_uniform(self, members: tuple[Ingredient, ...]) -> None:
        *kept, last = members
        self._keep(frozenset(kept))
        state_dict, live = self._staging.tensors(last), self._live()
        first = self._part(self._mixer.state_dict(min(members, key=lambda member: member.place)))
        self._sum.write_mean_with(state_dict, live, like=first)
        with torch.no_grad():
            for name, value in first.items():  # counters and masks are not averaged but taken from the first by path
                if not (value.is_floating_point() or value.is_complex()):
                    live[name].copy_(value)

    def _keep(self, members: frozenset[Ingredient]) -> None:
        """Make the running sum that of the given members."""
        if not self._members <= members:
            self._forget_sum()
        for member in sorted(members - self._members, key=lambda member: member.place):
            self._sum.add(self._part(self._mixer.state_dict(member)))
        self._members = members

    def _find_shards(self, mixture: Mixture) -> None:
        """Write parts from the first mixture on, where that is possible: no process needs a whole one then."""
        self._tried = True
        module = self._trainer.lightning_module
        ingredient = self._mixer.state_dict(mixture.members[0])
        if self._mixer.holds_weights and not _loads_in_its_own_way(module):
            self._shards = Shards.of(module, self._mixer.complete(ingredient))
        if self._shards is not None:
            self._direct = True
            self._part = self._staging.part = self._shards.part

    def _load(self, mixture: Mixture) -> None:
        module, strategy = self._trainer.lightning_module, self._trainer.strategy
        checkpoint = self._mixer.mix(mixture)
        mixed: dict[str, Tensor] = dict(checkpoint["state_dict"])
        try:
            module.on_load_checkpoint(checkpoint)
        except Exception as error:  # whatever a user's hook raises
            raise MisconfigurationException(
                f"{type(module).__name__}.on_load_checkpoint raised {error!r} for a mixture of ingredients. A mixture"
                " has their weights, and the hyperparameters and what on_save_checkpoint added of the first one, but no"
                " optimizer states, loops or callbacks: the hook has to do without."
            ) from error
        try:
            if isinstance(strategy, (FSDPStrategy, ModelParallelStrategy)):
                load_whole(strategy.model or module, checkpoint["state_dict"], module.strict_loading)
            else:
                strategy.load_model_state_dict(checkpoint, strict=module.strict_loading)
        except RuntimeError as error:  # torch lists the keys and both shapes
            names = [str(ingredient.path) for ingredient in mixture]
            raise MisconfigurationException(
                f"The ingredients {names} do not fit the {type(module).__name__} that was passed: {error}\nUse"
                " `weights` to leave tensors out (exclude), to mix some only (include) or to rename them (rename)."
            ) from error
        if not self._tried:
            self._tried = True
            copies = type(strategy).load_model_state_dict is Strategy.load_model_state_dict  # no sharded parameters
            plain = not _loads_in_its_own_way(module)
            holds = plain and self._holds(mixed)
            if plain and not copies and not holds and not is_sharded(module):
                raise MisconfigurationException(
                    f"{type(strategy).__name__} does not load a mixture into the module, so every candidate would be"
                    " scored with the weights that it has. Cook with one device, DDPStrategy or ModelParallelStrategy."
                )
            self._direct = copies and holds

    def _live(self) -> dict[str, Tensor]:
        if self._shards is not None:
            return self._shards.live()
        module = self._trainer.lightning_module
        parameters = module.named_parameters(remove_duplicate=False)
        return dict([*parameters, *module.named_buffers(remove_duplicate=False)])

    def _holds(self, mixed: dict[str, Tensor]) -> bool:
        """Whether every tensor was copied as it is to where its name says."""
        live = self._live()
        return all(
            isinstance(value, Tensor)
            and name in live
            and (not is_in_memory(value) or same_bytes(live[name], value.to(live[name])))  # ingredients have none such
            for name, value in mixed.items()
        )


def _loads_in_its_own_way(module: LightningModule) -> bool:
    return is_overridden("on_load_checkpoint", module, LightningModule) or any(map(_loads_itself, module.modules()))


def _loads_itself(module: nn.Module) -> bool:
    """Whether a module does something of its own when it is loaded, such as computing one weight from others."""
    # private in torch, and without a public counterpart
    hooks = [*module._load_state_dict_pre_hooks.values(), *module._load_state_dict_post_hooks.values()]
    if not all(getattr(hook, "__module__", "").startswith("torch.distributed.fsdp.") for hook in hooks):
        return True
    methods = (type(module).load_state_dict, type(module)._load_from_state_dict)
    return not all(method.__module__.partition(".")[0] in ("torch", "torchmetrics") for method in methods)
