"""The learner that replays Lightning's validate loop, with gradients."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_soups.evaluation.kept_loop import AfterBatch, KeptLoop
from lightning_soups.evaluation.learner import Gradient, Learner
from lightning_soups.evaluation.log_spy import LogSpy
from lightning_soups.evaluation.monitored import gather
from lightning_soups.evaluation.regroup import Batches, Regroup, nothing, regroup, whole_batches
from lightning_soups.mixing import Mixer
from lightning_soups.mixture import Mixture


class ReplayLearner(Learner):
    """Splits the held-out samples of this process, and makes passes over some of them.

    Samples are numbered through all dataloaders, in the order of a full pass. Where samples cannot be grouped anew,
    whole batches take their place.

    Args:
        loop: The kept loop, running, after its first full pass.
        mixer: Opens ingredients.
        recorded: Names of the tensors that ingredients have; a frozen part may be left out of them.
        prepare: Makes the live module a mixture.
        loss: The logged number to learn by.
        batch_size: Samples in a step, over all processes.
        validation_share: Share of the samples not to learn on.
        seed: Decides the split and the order.

    Raises:
        MisconfigurationException: There is too little held-out data to split, or no way to visit parts of it.
    """

    def __init__(
        self,
        loop: KeptLoop,
        mixer: Mixer,
        recorded: Collection[str],
        prepare: Callable[[Mixture], None],
        loss: str,
        batch_size: int,
        validation_share: float,
        seed: int,
    ) -> None:
        self._loop = loop
        self._mixer = mixer
        self._prepare = prepare
        self._loss = loss
        self._seed = seed
        self._spy = LogSpy(loop.trainer.lightning_module)
        self._seen: set[str] = set()
        self._sources: list[Regroup] = []
        units: list[tuple[int, int]] = []
        whole: list[tuple[int, int]] = []
        for index, (loader, rows) in enumerate(zip(loop.loaders or [], loop.rows, strict=False)):
            source = regroup(loader, rows)
            count = rows
            if source is None and loader.store is not None:
                source, count = whole_batches(loader.store), len(loader.store)
                whole.append((index, 0))
            if source is None:
                raise MisconfigurationException(
                    "A learned soup looks at parts of the held-out data, which these dataloaders cannot give: let the"
                    " batches be kept (cache_batches), or use an ordinary DataLoader over a map-style dataset."
                )
            self._sources.append(source)
            units += [(index, row) for row in range(count)]
        order = torch.randperm(len(units), generator=self._generator(0)).tolist()
        kept_back = round(validation_share * len(units))
        self._validation = [units[place] for place in sorted(order[:kept_back])]
        self._training = [units[place] for place in order[kept_back:]]
        everyone = gather(loop, [len(self._validation), len(self._training)])
        if everyone[:, 0].sum() == 0 or everyone[:, 1].min() == 0:
            raise MisconfigurationException(
                f"There is too little held-out data to keep {validation_share:.0%} of it back and learn on the rest:"
                f" {int(everyone.sum())} samples or batches on {len(everyone)} processes."
            )
        named = loop.trainer.lightning_module.named_parameters()
        self.parameters = tuple(name for name, one in named if name in recorded and one.is_floating_point())
        if not self.parameters:
            raise MisconfigurationException(
                "There is nothing to learn by: the ingredients, or what `weights` leaves of them, have none of the"
                " module's parameters."
            )
        self._in_a_step = 1
        in_a_unit = max([1.0, *(self._mean_loss([one])[1] for one in whole)])
        in_a_unit = float(gather(loop, [in_a_unit]).max())
        self._in_a_step = max(1, round(batch_size / in_a_unit / loop.trainer.world_size))
        self.steps = math.ceil(float(everyone[:, 1].max()) / self._in_a_step)

    def gradient(self, mixture: Mixture, step: int) -> Gradient:
        """See :meth:`Learner.gradient`."""
        self._prepare(mixture)
        parameters = dict(self._loop.trainer.lightning_module.named_parameters())

        def backward(loss: Tensor, samples: int) -> None:
            if not loss.requires_grad:
                able = sorted(n for n, v in self._spy.values.items() if isinstance(v, Tensor) and v.requires_grad)
                raise MisconfigurationException(
                    f"`loss={self._loss!r}` has no gradient: it was logged detached from the model."
                    f" Logged with a gradient were: {able}."
                )
            (loss * samples).backward()  # type: ignore[no-untyped-call]

        with _trainable([parameters[name] for name in self.parameters]):
            with _explained():
                total, samples = self._mean_loss(self._samples_of(step), backward)
            gradients = {name: parameters[name].grad for name in self.parameters}
            found = {name: gradient for name, gradient in gradients.items() if gradient is not None}
            dots = self._mixer.dots(found, mixture.members)
        zero = torch.zeros(len(mixture), dtype=torch.float64)
        own = torch.stack([dots.get(name, zero) for name in self.parameters])
        sums = gather(self._loop, [samples, total, *own.flatten().tolist()]).sum(dim=0)
        self._check(float(sums[0]))
        mean = sums[2:].view_as(own) / sums[0]
        return Gradient(float(sums[1] / sums[0]), dict(zip(self.parameters, mean, strict=True)))

    def validation_loss(self, mixture: Mixture) -> float:
        """See :meth:`Learner.validation_loss`."""
        self._prepare(mixture)
        total, samples = self._mean_loss(self._validation)
        sums = gather(self._loop, [samples, total]).sum(dim=0)
        self._check(float(sums[0]))
        return float(sums[1] / sums[0])

    def _mean_loss(
        self, units: Sequence[tuple[int, int]], use: Callable[[Tensor, int], None] | None = None
    ) -> tuple[float, float]:
        """Make a pass over some samples; returns the sum of their losses and how many samples had one.

        Args:
            units: Which.
            use: Given each batch's mean loss and its number of samples, with gradients.
        """
        total, samples = 0.0, 0.0

        def after_batch(dataloader: int, batch: int, rows: int) -> bool:
            nonlocal total, samples
            loss = self._spy.values.get(self._loss)
            if isinstance(loss, Tensor) and loss.numel() == 1 and loss.is_floating_point():
                count = self._spy.batch_sizes.get(self._loss, rows)
                if use is not None:
                    use(loss, count)
                total += float(loss.detach()) * count
                samples += count
            self._seen.update(name for name, value in self._spy.values.items() if isinstance(value, Tensor))
            self._spy.values.clear()  # another dataloader need not log the loss
            return False

        self._visit(units, after_batch, gradients=use is not None)
        return total, samples

    def _check(self, samples: float) -> None:
        """No process may go on when none has seen the loss."""
        if samples == 0:
            raise MisconfigurationException(
                f"`loss={self._loss!r}` was not logged as a number in validation_step, which is what a learned soup"
                f" minimizes. Numbers that were logged: {sorted(self._seen)}. Give one of them, or log the loss there."
            )

    def _visit(self, units: Sequence[tuple[int, int]], after_batch: AfterBatch, gradients: bool) -> None:
        parts: list[Batches] = []
        for index, source in enumerate(self._sources):
            own = [row for loader, row in units if loader == index]
            groups = [own[start : start + self._in_a_step] for start in range(0, len(own), self._in_a_step)]
            parts.append(source(groups) if groups else nothing())
        if units:
            with self._spy():
                self._loop.one_pass(parts, after_batch, gradients=gradients)

    def _samples_of(self, step: int) -> list[tuple[int, int]]:
        epoch, place = divmod(step, self.steps)
        order = torch.randperm(len(self._training), generator=self._generator(1 + epoch))
        chosen = order[place * self._in_a_step : (place + 1) * self._in_a_step].tolist()
        return [self._training[one] for one in chosen]

    def _generator(self, purpose: int) -> torch.Generator:
        rank = self._loop.trainer.global_rank
        return torch.Generator().manual_seed((self._seed * 1_000_003 + purpose) * 1_009 + rank)


@contextmanager
def _trainable(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Let all parameters have gradients while the block runs, frozen ones too: they differ between ingredients."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
        parameter.grad = None
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "Inference tensors cannot be saved for backward" not in str(error):
            raise
        raise MisconfigurationException(
            "The module keeps a tensor that it made in an earlier pass, in inference mode, so its steps cannot be"
            " differentiated. Pass inference_mode=False to the trainer."
        ) from error
