"""A uniform soup that grows: the float64 sum of its members, and means written in place."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_soups.weights.chunks import Job, Release, combine, wide
from lightning_soups.weights.kinds import refuse_odd


class RunningSum:
    r"""Keeps :math:`S = \sum_i \theta_i` so that a candidate's mean costs two tensors to read, whatever N is.

    Only floating-point and complex tensors take part; counters, masks and extra state are ignored. The sums take 8
    bytes a number (16 for complex ones).

    Args:
        device: Where the sums live; it must support float64 (MPS does not).
        release: Called with each piece of a member that has been read.
    """

    def __init__(self, device: torch.device | str = "cpu", release: Release | None = None) -> None:
        self._device = torch.device(device)
        self._release = release
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    @property
    def count(self) -> int:
        """How many members were added."""
        return self._count

    def add(self, tensors: Mapping[str, object]) -> None:
        """Add a member.

        Args:
            tensors: Names and tensors on any device. The first member fixes names and shapes.

        Raises:
            ValueError: Names or shapes are not those of the first member, or a tensor is no plain array of numbers; the
                sums are as before.
        """
        members = _averaged(tensors)
        if self._count == 0:
            self._sums = {
                name: member.detach().to(self._device, wide(member.dtype), copy=True)
                for name, member in members.items()
            }
        else:
            if missing := sorted(self._sums.keys() - members.keys()):
                raise ValueError(f"A member lacks tensors that the first member has: {missing}.")
            self._check(members)
            sums = self._sums
            jobs = [Job(sums[name], [sums[name], member], sums[name].dtype) for name, member in members.items()]
            combine(jobs, device=self._device, release=self._release)
        self._count += 1

    def write_mean_with(
        self,
        tensors: Mapping[str, object],
        out: Mapping[str, Tensor],
        like: Mapping[str, object] | None = None,
    ) -> None:
        r"""Write :math:`(S + \theta) / (N + 1)`, the soup with one more member, into tensors that exist.

        The bits are those of :func:`average` over the same members with equal coefficients wherever the float64 sums
        are exact: rounded once, then copied. The sums do not change.

        Args:
            tensors: The further member, :math:`\theta`.
            out: Where to write, in place, on any device and in any dtype; names it lacks are left out.
            like: Which dtypes to round to: those of the first member, as :func:`average` does, where members differ; by
                default those of ``tensors``.

        Raises:
            ValueError: A name is not among the sums', a shape differs, or a tensor is no plain array of numbers;
                nothing was written.
        """
        members = {name: member for name, member in _averaged(tensors).items() if name in out}
        if self._count == 0:
            with torch.inference_mode():
                for name, member in members.items():
                    out[name].copy_(member)
            return
        self._check(members)
        self._check({name: out[name] for name in members})
        of = members if like is None else _averaged(like)
        jobs = [Job(out[name], [self._sums[name], member], of[name].dtype) for name, member in members.items()]
        combine(jobs, divisor=self._count + 1, device=self._device, release=self._release)

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        problems = [f"{name} is not among them" for name in tensors if name not in self._sums]
        problems += [
            f"{name} has the shape {tuple(tensor.shape)} and not {tuple(self._sums[name].shape)}"
            for name, tensor in tensors.items()
            if name in self._sums and tensor.shape != self._sums[name].shape
        ]
        if problems:
            raise ValueError("Tensors do not fit the running sums: " + "; ".join(problems) + ".")


def _averaged(tensors: Mapping[str, object]) -> dict[str, Tensor]:
    refuse_odd(tensors, "A member")
    return {
        name: tensor
        for name, tensor in tensors.items()
        if isinstance(tensor, Tensor) and (tensor.is_floating_point() or tensor.is_complex())
    }
