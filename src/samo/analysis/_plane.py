"""Planes in the space of a model's parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._errors import AnalysisError

State = Mapping[str, Tensor]
"""Tensors by name, as ``Module.state_dict`` gives them."""
Interval = tuple[float, float]

# Of the distance between checkpoints: what is closer to a line is one, but for rounding.
_ON_A_LINE = 1e-5
_MARGIN = 0.25


@dataclass(frozen=True)
class Plane:
    """The points θ(a, b) = θ_0 + a x + b y.

    Where a plane is spanned by checkpoints, their floating-point buffers (the running statistics of
    BatchNorm) go along: they are the same combination of the checkpoints' buffers as the
    parameters are of their parameters, within the range of what the checkpoints have, so that each
    checkpoint is met with statistics of its own and no variance is negative. Only parameters count
    for lengths and angles.

    Attributes:
        description: How it was made.
        origin: θ_0: parameters, and buffers if they go along, by name.
        x: The first direction.
        y: The second direction.
        limits: The least and the greatest values of the buffers that go along, by name.
        points: The coordinates (a, b) of what lies on the plane, by name.
        view: What to look at: the intervals of a and of b.
    """

    description: str
    origin: State
    x: State
    y: State
    limits: Mapping[str, tuple[Tensor, Tensor]]
    points: Mapping[str, Interval]
    view: tuple[Interval, Interval]

    def at(self, a: float, b: float) -> dict[str, Tensor]:
        """Computes a point of the plane.

        Args:
            a: How far along x.
            b: How far along y.

        Returns:
            The tensors by name, for ``model.load_state_dict(.., strict=False)``.
        """
        values = torch._foreach_mul(list(self.x.values()), a)
        torch._foreach_add_(values, list(self.y.values()), alpha=b)
        torch._foreach_add_(values, list(self.origin.values()))
        state = dict(zip(self.origin, values, strict=True))
        for name, (low, high) in self.limits.items():
            state[name].clamp_(low, high)
        return state

    @property
    def parameters(self) -> list[str]:
        """The names of the tensors that count for lengths and angles."""
        return [name for name in self.origin if name not in self.limits]


def random_plane(model: nn.Module, *, seed: int = 0) -> Plane:
    r"""Spans a plane at the model's parameters by two filter-normalised random directions.

    Each filter d_{i,j} of a Gaussian direction (what makes one channel or unit: a slice along the
    weight's first dimension) gets the norm of the model's own:

    .. math:: d_{i,j} \leftarrow \frac{d_{i,j}}{\|d_{i,j}\|} \|θ_{i,j}\|

    so that the picture does not depend on how the weights of neighbouring layers are scaled, and
    sharpness can be compared between models. Biases and the parameters of normalisation layers (all
    parameters with fewer than two dimensions) do not move, as in the authors' code; neither do
    frozen parameters and buffers.

    Args:
        model: The model.
        seed: The seed of the directions; the global generators are neither read nor seeded.

    Returns:
        The plane, to be looked at from −1 to 1: at the edge the weights have moved by their norm.

    Raises:
        AnalysisError: If no parameter can move.

    References:
        Li, Xu, Taylor, Studer and Goldstein: Visualizing the Loss Landscape of Neural Nets,
        NeurIPS 2018, section 4.
    """
    generator = torch.Generator().manual_seed(seed)
    origin = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    def direction() -> dict[str, Tensor]:
        noise = (torch.randn(p.shape, generator=generator) for p in origin.values())
        pairs = zip(origin.items(), noise, strict=True)
        return {n: _filter_normalised(z.to(p.device, p.dtype), p) for (n, p), z in pairs}

    x, y = direction(), direction()
    if not any(bool(d.any()) for d in x.values()):
        raise AnalysisError(
            "no filter can move: the model has no trainable parameter other than zero of two or "
            "more dimensions."
        )
    description = f"filter-normalised random directions, seed {seed}"
    return Plane(description, origin, x, y, {}, {"model": (0.0, 0.0)}, ((-1.0, 1.0), (-1.0, 1.0)))


def _filter_normalised(direction: Tensor, parameter: Tensor) -> Tensor:
    if parameter.dim() < 2:
        return torch.zeros_like(direction)
    rest = tuple(range(1, parameter.dim()))
    norms = torch.linalg.vector_norm(direction, dim=rest, keepdim=True)
    own = torch.linalg.vector_norm(parameter, dim=rest, keepdim=True)
    return direction * torch.where(norms > 0, own / norms, 0.0)


def plane_through(model: nn.Module, checkpoints: Mapping[str, State]) -> Plane:
    r"""Lays the plane through three checkpoints.

    With w_1, w_2, w_3 in the order given, θ_0 = w_1, and x and y are orthonormal:

    .. math::
        x = \frac{w_2 - w_1}{\|w_2 - w_1\|}, \qquad
        y = \frac{(w_3 - w_1) - ⟨w_3 - w_1, x⟩ x}{\|(w_3 - w_1) - ⟨w_3 - w_1, x⟩ x\|}

    so that distances on the plane are distances between the parameters (Garipov et al.: Loss
    Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, NeurIPS 2018, appendix A.1).

    Args:
        model: The model that they are of.
        checkpoints: Three state dicts by name.

    Returns:
        The plane, with the checkpoints as its points.

    Raises:
        AnalysisError: If there are not three, they do not fit the model, or they lie on a line.
    """
    if len(checkpoints) != 3:
        raise AnalysisError(
            f"checkpoints must be three state dicts by name; found {list(checkpoints)}."
        )
    states = [read(model, name, state) for name, state in checkpoints.items()]
    gramian = gramian_of(parameters(model), lambda name: moved(states, states[0], name))
    names = list(checkpoints)
    length = np.sqrt(gramian[1, 1])
    if length == 0:
        raise AnalysisError(f"checkpoints {names[0]!r} and {names[1]!r} are equal.")
    x = np.array([-1.0, 1.0, 0.0]) / length
    y = np.array([-1.0, 0.0, 1.0]) - (gramian[2] @ x) * x
    height = np.sqrt(max(y @ gramian @ y, 0.0))
    if height <= _ON_A_LINE * max(length, np.sqrt(gramian[2, 2])):
        raise AnalysisError(f"checkpoints {names} lie on a line: they do not span a plane.")
    return _spanned(model, states, 0, (x, y / height), gramian, names, f"through {_listed(names)}")


def trajectory_plane(model: nn.Module, checkpoints: Sequence[State]) -> Plane:
    r"""Lays the plane through the last checkpoint in which a trajectory varies most.

    x and y are the first two principal components of the checkpoints' parameters, the unit vectors
    that maximise :math:`\sum_t ⟨w_t - \bar w, x⟩^2` (Li et al. 2018, section 7), with signs such
    that the trajectory ends to the right of where it begins, and above.

    Args:
        model: The model that they are of.
        checkpoints: State dicts, in the order of training; those of several trainings one after
            the other give a plane for all of them.

    Returns:
        The plane, with the last checkpoint as its origin.

    Raises:
        AnalysisError: If there are fewer than three checkpoints, they do not fit the model, or they
            lie on a line.
    """
    states = [read(model, f"number {i}", state) for i, state in enumerate(checkpoints, 1)]
    if len(states) < 3:
        raise AnalysisError(f"a plane needs three checkpoints or more; found {len(states)}.")
    n = len(states)
    gramian = gramian_of(parameters(model), lambda name: moved(states, states[-1], name))
    centre = np.eye(n) - 1.0 / n
    values, vectors = np.linalg.eigh(centre @ gramian @ centre)
    if values[-2] <= _ON_A_LINE**2 * values[-1]:
        raise AnalysisError(
            f"the {n} checkpoints lie on a line (or are all equal): they do not span a plane."
        )
    axes = []
    for k in (-1, -2):
        along = vectors[:, k] - vectors[:, k].mean()
        along = along if along[-1] >= along[0] else -along
        axes.append(along / np.sqrt(values[k]))
    description = f"first two principal components of {n} checkpoints"
    return _spanned(model, states, n - 1, (axes[0], axes[1]), gramian, [], description)


def _spanned(
    model: nn.Module,
    states: Sequence[State],
    origin: int,
    axes: tuple[NDArray[np.float64], NDArray[np.float64]],
    gramian: NDArray[np.float64],
    names: Sequence[str],
    description: str,
) -> Plane:
    """The plane whose directions are combinations of checkpoints, their coefficients adding to 0.

    Args:
        model: The model.
        states: The checkpoints.
        origin: Which of them is θ_0.
        axes: The coefficients of x and of y.
        gramian: The inner products of the checkpoints' differences to θ_0.
        names: What to call the checkpoints; none to leave them unnamed.
        description: How the plane was made.

    Returns:
        The plane.
    """
    start = {name: states[origin][name].to(t) for name, t in _tensors(model).items()}
    coefficients = torch.from_numpy(np.stack(axes))
    directions: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for name, tensor in start.items():
        rows = coefficients @ moved(states, start, name)
        for direction, row in zip(directions, rows, strict=True):
            direction[name] = row.view(tensor.shape).to(tensor)
    places = np.stack([gramian @ axis for axis in axes], axis=1)
    low, high = places.min(0), places.max(0)
    margin = _MARGIN * (high - low).max()
    counted = set(parameters(model))
    view = [(float(a - margin), float(b + margin)) for a, b in zip(low, high, strict=True)]
    buffers = [name for name in start if name not in counted]
    stacks = {n: torch.stack([state[n].to(start[n]) for state in states]) for n in buffers}
    return Plane(
        description,
        start,
        *directions,
        {name: (stack.amin(0), stack.amax(0)) for name, stack in stacks.items()},
        {n: (float(a), float(b)) for n, (a, b) in zip(names, places, strict=False)},
        (view[0], view[1]),
    )


def read(model: nn.Module, name: str, state: State) -> State:
    """Reads a checkpoint's parameters and floating-point buffers.

    Args:
        model: The model.
        name: What to call the checkpoint in errors.
        state: The checkpoint.

    Returns:
        The tensors by name, where they are.

    Raises:
        AnalysisError: If it does not fit the model.
    """
    if not isinstance(state, Mapping):
        raise AnalysisError(
            f"checkpoint {name} must be a state dict; found {type(state).__name__}."
        )
    for key, own in _tensors(model).items():
        if key not in state:
            raise AnalysisError(f"checkpoint {name} does not fit the model: it has no {key!r}.")
        if state[key].shape != own.shape:
            raise AnalysisError(
                f"checkpoint {name} does not fit the model: {key!r} must be of shape "
                f"{list(own.shape)}; found {list(state[key].shape)}."
            )
    return {key: state[key].detach() for key in _tensors(model)}


def parameters(model: nn.Module) -> list[str]:
    """The names of the model's parameters, each once."""
    return [name for name, _ in model.named_parameters()]


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, and the buffers that go along: floating-point ones that state dicts have."""
    saved = model.state_dict()
    buffers = {n: b for n, b in model.named_buffers() if n in saved and b.is_floating_point()}
    return {**dict(model.named_parameters()), **buffers}


def moved(states: Sequence[State], origin: State, name: str) -> Tensor:
    """How far one tensor of each checkpoint is from the origin's: ``[N, m]``, float64, CPU."""
    rows = [state[name].flatten().to("cpu", torch.float64) for state in states]
    return torch.stack(rows) - origin[name].flatten().to("cpu", torch.float64)


def gramian_of(names: Iterable[str], rows: Callable[[str], Tensor]) -> NDArray[np.float64]:
    """The inner products of vectors that are made of several tensors.

    Args:
        names: The tensors.
        rows: Gives one tensor of each vector, as a row.

    Returns:
        The Gramian, from one tensor at a time: whole vectors in float64 would take too much.
    """
    parts = [part @ part.T for part in map(rows, names)]
    found: NDArray[np.float64] = torch.stack(parts).sum(0).numpy()
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}"
