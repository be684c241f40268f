"""The learned soup."""

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from lightning_soups.evaluation.evaluator import Evaluator
from lightning_soups.evaluation.learner import Gradient
from lightning_soups.ingredients import Ingredients
from lightning_soups.mixture import Mixture
from lightning_soups.recipes.recipe import Recipe, at_least_one

_VALIDATE_EVERY = 10  # steps


@final
class LearnedSoup(Recipe):
    r"""Learn the coefficients by gradient descent on the held-out data.

    Minimizes :math:`L(\sum_i \lambda_i \theta_i)` with AdamW (no weight decay, constant learning rate), starting from
    the uniform soup. A part of the held-out data is not learned on: every 10 steps the loss on it is measured, and
    the coefficients with the least are served, those of the uniform soup if nothing was better.

    The gradients are :math:`\partial L / \partial \lambda_i = \langle \partial L / \partial \theta, \theta_i \rangle`:
    one backward pass through the mixed model, then dot products with ingredients read from disk tensor by tensor. So
    memory holds the model, its gradients and little more, whatever the number of ingredients. Progress is kept after
    every step; a cook that was interrupted resumes. The trace has the scores of the start and of what was learned;
    samples that were learned on are not among those that it counts. Steps and the loss that is kept back see BatchNorm
    layers with averaged running statistics; scores see them as ``cook`` is told to.

    Source: Wortsman et al., Model soups, ICML 2022, section 4 and appendix on learned soups, arXiv:2203.05482: AdamW,
    learning rate 0.1, batches of 256, three epochs, coefficients for the whole model or for each layer. Unlike there,
    logits are not scaled by a learned temperature: a module's loss need not have any.

    Args:
        loss: The number to minimize: what ``validation_step`` logs under this name, a differentiable mean over the
            batch.
        by_layer: Whether each layer (a module with parameters of its own) has coefficients of its own.
        softmax: Whether coefficients are positive and sum to 1; otherwise they are free.
        lr: Learning rate of the logits of the coefficients; of free ones relative to 1/N.
        steps: How many steps to make.
        batch_size: Samples in a step.
        validation_share: Which share of the held-out data is not learned on.
        seed: Decides that share and the order of the samples.

    Raises:
        ValueError: ``loss`` is empty, ``lr`` is not positive, ``steps`` or ``batch_size`` is less than 1, or
            ``validation_share`` is not between 0 and 1.
    """

    def __init__(
        self,
        loss: str = "val_loss",
        by_layer: bool = False,
        softmax: bool = True,
        lr: float = 0.1,
        steps: int = 100,
        batch_size: int = 256,
        validation_share: float = 0.2,
        seed: int = 0,
    ) -> None:
        if not loss:
            raise ValueError(f"`loss` must name a logged number such as 'val_loss', got {loss!r}.")
        if not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"`lr` must be a positive number, got {lr}.")
        if not 0 < validation_share < 1:
            raise ValueError(f"`validation_share` must be between 0 and 1, got {validation_share}.")
        self._loss = loss
        self._by_layer = by_layer
        self._softmax = softmax
        self._lr = lr
        self._steps = at_least_one(steps, "steps")
        self._batch_size = at_least_one(batch_size, "batch_size")
        self._validation_share = validation_share
        self._seed = seed

    def cook(self, ingredients: Ingredients, evaluator: Evaluator) -> Mixture:
        """Learn, then score where it started and what was learned."""
        learner = evaluator.learner(self._loss, self._batch_size, self._validation_share, self._seed)
        tied = evaluator.tied_parameters() if self._by_layer else {}
        learning = _Learning.begin(ingredients, self._by_layer, self._softmax, self._lr, learner.parameters, tied)
        start = learning.mixture()
        learning.note(learner.validation_loss(start))
        if not math.isfinite(learning.best_loss):
            raise ValueError(
                f"The {self._loss!r} of the uniform soup, where learning starts, is not a finite number: leave"
                " ingredients out that diverged (`lightning-soup study --study Diagnosis` names them), or use another"
                " recipe."
            )
        key = f"{self.options} {[str(ingredient.path) for ingredient in ingredients]}"
        state = evaluator.load_state(key)
        if state is not None and math.isclose(state["start_loss"], learning.start_loss, rel_tol=1e-6):
            learning.load(state)  # else the data or the ingredients are others than they were
        while learning.step < self._steps:
            learning.update(learner.gradient(learning.mixture(), learning.step))
            if learning.step % _VALIDATE_EVERY == 0 or learning.step == self._steps:
                learning.note(learner.validation_loss(learning.mixture()))
            evaluator.save_state(key, learning.state())
        learned = learning.best_mixture()
        evaluator.score(start, label="uniform, where learning starts")
        evaluator.score(learned, label=f"learned, after {learning.best_step} of {self._steps} steps")
        return learned


@dataclass
class _Learning:
    """Raw coefficients, one row for each layer, float64, shape (layers, N), and the optimizer that changes them."""

    ingredients: Ingredients
    layers: dict[str, int]
    softmax: bool
    raw: Tensor
    optimizer: torch.optim.AdamW
    best_raw: Tensor
    tied: dict[str, str]
    step: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    start_loss: float = math.inf

    @classmethod
    def begin(
        cls,
        ingredients: Ingredients,
        by_layer: bool,
        softmax: bool,
        lr: float,
        parameters: tuple[str, ...],
        tied: dict[str, str],
    ) -> "_Learning":
        names = dict.fromkeys(name.rpartition(".")[0] for name in parameters) if by_layer else {"": None}
        layers = {name: row for row, name in enumerate(names)}
        start = torch.zeros if softmax else torch.ones
        raw = start(len(layers), len(ingredients), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.AdamW([raw], lr=lr, weight_decay=0)
        return cls(ingredients, layers, softmax, raw, optimizer, raw.detach().clone(), tied)

    def coefficients(self, raw: Tensor) -> Tensor:
        return raw.softmax(dim=1) if self.softmax else raw / raw.shape[1]

    def mixture(self) -> Mixture:
        return self._mixture_of(self.raw.detach())

    def best_mixture(self) -> Mixture:
        return self._mixture_of(self.best_raw)

    def _mixture_of(self, raw: Tensor) -> Mixture:
        if torch.equal(raw, raw[:, :1].expand_as(raw)) and (self.softmax or bool((raw == 1).all())):
            return Mixture.uniform(self.ingredients)
        coefficients = self.coefficients(raw)

        def of(row: Tensor) -> dict[Any, float]:
            return dict(zip(self.ingredients, row.tolist(), strict=True))

        # the layer without a name is the whole model, or what it holds itself; buffers that belong to no layer go with
        # it, or with the mean
        whole = coefficients[self.layers[""]] if "" in self.layers else coefficients.mean(dim=0)
        layers = {layer: of(coefficients[row]) for layer, row in self.layers.items() if layer}
        return Mixture(of(whole), layers).tie(self.tied)

    def update(self, gradient: Gradient) -> None:
        by_row = torch.zeros_like(self.raw)
        for parameter, products in gradient.by_parameter.items():
            by_row[self.layers.get(parameter.rpartition(".")[0], 0)] += products
        self.optimizer.zero_grad()
        self.coefficients(self.raw).backward(by_row)  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.step += 1

    def note(self, validation_loss: float) -> None:
        if self.step == 0:
            self.start_loss = validation_loss
        if validation_loss < self.best_loss:
            self.best_loss, self.best_step, self.best_raw = validation_loss, self.step, self.raw.detach().clone()

    def state(self) -> dict[str, Any]:
        adam = self.optimizer.state[self.raw]
        tensors = {"raw": self.raw.detach(), "best_raw": self.best_raw, **{key: adam[key] for key in adam}}
        numbers = {"steps": self.step, "best_step": self.best_step, "best_loss": self.best_loss}
        numbers["start_loss"] = self.start_loss
        return {**numbers, "tensors": {name: tensor.tolist() for name, tensor in tensors.items()}}

    def load(self, state: dict[str, Any]) -> None:
        tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in state["tensors"].items()}
        with torch.no_grad():
            self.raw.copy_(tensors.pop("raw"))
        self.best_raw = tensors.pop("best_raw")
        tensors["step"] = tensors["step"].float()
        self.optimizer.state[self.raw] = tensors
        self.step, self.best_step, self.best_loss = state["steps"], state["best_step"], state["best_loss"]
