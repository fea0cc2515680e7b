"""Planes in the parameter space of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._errors import AnalysisError

State = Mapping[str, Tensor]
"""Tensors by name, as in ``Module.state_dict``."""
Interval = tuple[float, float]

# Relative to the distance between checkpoints; points closer to a line count as on the line.
_ON_A_LINE = 1e-5
_MARGIN = 0.25


@dataclass(frozen=True)
class Plane:
    """The points θ(a, b) = θ_0 + a x + b y.

    On a plane through checkpoints, floating-point buffers (the running statistics of BatchNorm)
    change with the parameters: they are the same linear combination of the checkpoints, clamped to
    the range of their values. Thus each checkpoint has its own statistics, and no variance is
    negative. Lengths and angles are computed from the parameters only.

    Attributes:
        description: A description of the plane.
        origin: θ_0: parameters, and the buffers that change, by name.
        x: The first direction.
        y: The second direction.
        limits: Minimum and maximum of the buffers that change, by name.
        points: The coordinates (a, b) of named points on the plane.
        view: The default intervals of a and b.
    """

    description: str
    origin: State
    x: State
    y: State
    limits: Mapping[str, tuple[Tensor, Tensor]]
    points: Mapping[str, Interval]
    view: tuple[Interval, Interval]

    def at(self, a: float, b: float) -> dict[str, Tensor]:
        """Computes the point (a, b), for ``model.load_state_dict(.., strict=False)``."""
        values = torch._foreach_mul(list(self.x.values()), a)
        torch._foreach_add_(values, list(self.y.values()), alpha=b)
        torch._foreach_add_(values, list(self.origin.values()))
        state = dict(zip(self.origin, values, strict=True))
        for name, (low, high) in self.limits.items():
            state[name].clamp_(low, high)
        return state

    @property
    def parameters(self) -> list[str]:
        """The names of the tensors that lengths and angles are computed from."""
        return [name for name in self.origin if name not in self.limits]


def random_plane(model: nn.Module, *, seed: int = 0) -> Plane:
    r"""Creates a plane through the model's parameters along filter-normalised random directions.

    Each filter d_{i,j} of a Gaussian direction (a slice along the weight's first dimension, which
    computes one channel or unit) is scaled to the norm of the model's filter:

    .. math:: d_{i,j} \leftarrow \frac{d_{i,j}}{\|d_{i,j}\|} \|θ_{i,j}\|

    so that the plot does not depend on the scale of the weights of successive layers, and the
    sharpness of models can be compared. Biases and the parameters of normalisation layers (all
    parameters with fewer than two dimensions) are fixed, as in the authors' code, and so are frozen
    parameters and buffers.

    Args:
        model: The model.
        seed: The seed of the directions; global generators are neither read nor seeded.

    Returns:
        The plane, with a view from −1 to 1: at the edge, the displacement equals the weights' norm.

    Raises:
        AnalysisError: If no parameter changes along the directions.

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
            "random directions are zero: the model has no trainable nonzero parameter of two or "
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
    r"""Creates the plane through three checkpoints.

    For w_1, w_2, w_3 in the given order, θ_0 = w_1, and x and y are orthonormal:

    .. math::
        x = \frac{w_2 - w_1}{\|w_2 - w_1\|}, \qquad
        y = \frac{(w_3 - w_1) - ⟨w_3 - w_1, x⟩ x}{\|(w_3 - w_1) - ⟨w_3 - w_1, x⟩ x\|}

    so distances on the plane are distances between parameters (Garipov et al.: Loss
    Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, NeurIPS 2018, appendix A.1).

    Args:
        model: The model of the checkpoints.
        checkpoints: Three state dicts by name.

    Returns:
        The plane, with the checkpoints as its points.

    Raises:
        AnalysisError: If there are not three, they do not fit the model, or they are on a line.
    """
    if len(checkpoints) != 3:
        raise AnalysisError(
            f"checkpoints must be three state dicts by name; found {list(checkpoints)}."
        )
    states = [read_checkpoint(model, name, state) for name, state in checkpoints.items()]
    gramian = gramian_of(parameter_names(model), partial(displacements, states, states[0]))
    names = list(checkpoints)
    length = np.sqrt(gramian[1, 1])
    if length == 0:
        raise AnalysisError(f"checkpoints {names[0]!r} and {names[1]!r} are equal.")
    x = np.array([-1.0, 1.0, 0.0]) / length
    y = np.array([-1.0, 0.0, 1.0]) - (gramian[2] @ x) * x
    height = np.sqrt(max(y @ gramian @ y, 0.0))
    if height <= _ON_A_LINE * max(length, np.sqrt(gramian[2, 2])):
        raise AnalysisError(f"checkpoints {names} are on a line: they do not span a plane.")
    return _spanned(model, states, 0, (x, y / height), gramian, names, f"through {_listed(names)}")


def trajectory_plane(model: nn.Module, checkpoints: Sequence[State]) -> Plane:
    r"""Creates the plane of largest variance of a trajectory, through its last checkpoint.

    x and y are the first two principal components of the checkpoints' parameters, the unit vectors
    that maximise :math:`\sum_t ⟨w_t - \bar w, x⟩^2` (Li et al. 2018, section 7), with signs such
    that the trajectory ends to the right of its start, and above.

    Args:
        model: The model of the checkpoints.
        checkpoints: State dicts, in the order of training; concatenate those of several runs for a
            common plane.

    Returns:
        The plane, with the last checkpoint as its origin.

    Raises:
        AnalysisError: If there are fewer than three checkpoints, they do not fit the model, or they
            are on a line.
    """
    states = read_checkpoints(model, checkpoints)
    if len(states) < 3:
        raise AnalysisError(f"a plane needs three checkpoints or more; found {len(states)}.")
    n = len(states)
    gramian = gramian_of(parameter_names(model), partial(displacements, states, states[-1]))
    centre = np.eye(n) - 1.0 / n
    values, vectors = np.linalg.eigh(centre @ gramian @ centre)
    if values[-2] <= _ON_A_LINE**2 * values[-1]:
        raise AnalysisError(
            f"the {n} checkpoints are on a line (or all equal): they do not span a plane."
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
    """Creates a plane whose directions are linear combinations of checkpoints.

    Args:
        model: The model.
        states: The checkpoints.
        origin: The index of θ_0.
        axes: The coefficients of x and y, which add up to 0.
        gramian: The inner products of the checkpoints' differences from θ_0.
        names: The names of the checkpoints; empty to leave them unnamed.
        description: The description of the plane.

    Returns:
        The plane.
    """
    start = {name: states[origin][name].to(t) for name, t in _tensors(model).items()}
    coefficients = torch.from_numpy(np.stack(axes))
    directions: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for name, tensor in start.items():
        rows = coefficients @ displacements(states, start, name)
        for direction, row in zip(directions, rows, strict=True):
            direction[name] = row.view(tensor.shape).to(tensor)
    places = np.stack([gramian @ axis for axis in axes], axis=1)
    low, high = places.min(0), places.max(0)
    margin = _MARGIN * (high - low).max()
    counted = set(parameter_names(model))
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


def read_checkpoint(model: nn.Module, name: str, state: State) -> State:
    """Returns the parameters and floating-point buffers of a checkpoint, by name.

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


def read_checkpoints(model: nn.Module, checkpoints: Sequence[State]) -> list[State]:
    """Applies `read_checkpoint` to a sequence of checkpoints."""
    return [read_checkpoint(model, f"number {i}", state) for i, state in enumerate(checkpoints, 1)]


def parameter_names(model: nn.Module) -> list[str]:
    """Returns the names of the model's parameters, each once."""
    return [name for name, _ in model.named_parameters()]


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns parameters, and the floating-point buffers of the state dict."""
    saved = model.state_dict()
    buffers = {n: b for n, b in model.named_buffers() if n in saved and b.is_floating_point()}
    return {**dict(model.named_parameters()), **buffers}


def displacements(states: Sequence[State], origin: State, name: str) -> Tensor:
    """Computes one tensor of each checkpoint minus that of the origin: ``[N, m]``, float64, CPU."""
    rows = [state[name].flatten().to("cpu", torch.float64) for state in states]
    return torch.stack(rows) - origin[name].flatten().to("cpu", torch.float64)


def gramian_of(names: Iterable[str], rows: Callable[[str], Tensor]) -> NDArray[np.float64]:
    """Computes the inner products of vectors that consist of several tensors.

    Args:
        names: The names of the tensors.
        rows: Returns one tensor of each vector as a row.

    Returns:
        The Gramian, accumulated over the tensors: whole vectors in float64 would need more memory.
    """
    parts = [part @ part.T for part in map(rows, names)]
    found: NDArray[np.float64] = torch.stack(parts).sum(0).numpy()
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}"
