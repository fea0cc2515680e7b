"""One table of all methods, by name, and what is read from it."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torchjd.aggregation as agg
from torch import Tensor
from torchjd import scalarization as sca
from torchjd.aggregation import Aggregator, GramianWeightedAggregator, Weighting
from torchjd.scalarization import Scalarizer

from ._cagrad import CAGrad
from ._conic_grad import ConicGrad
from ._db_mtl import DBMTL
from ._fair_grad import FairGrad
from ._go4align import GO4Align
from ._grad_norm import GradNorm
from ._gradvac import GradVac
from ._imtl import IMTL
from ._ldc_mtl import LDCMTL
from ._method import Method, Options, of_gramian, sized, uniform
from ._mgda import MGDA
from ._moco import MoCo
from ._nash_mtl import NashMTL
from ._pcd import PCD
from ._pcgrad import PCGrad
from ._projector import ExactProjector
from ._sdmgrad import SDMGradWeighting
from ._si import SI
from ._slaw import SLAW
from ._stl import STL


def _smoothed(kind: Callable[..., Any], n_tasks: int, options: Options) -> Any:
    """One that smooths the weights of a method that is named."""
    base = create(options.pop("base"), n_tasks)
    if not isinstance(base, GramianWeightedAggregator):
        names = [name for name, method in _BY_NAME.items() if method.needs == "gramian"]
        raise ValueError(f"base must be a method of the Gramian, one of {names}; found {base!r}.")
    return GramianWeightedAggregator(kind(base.gramian_weighting, **options))


_ONE_BATCH = (
    "The paper draws two independent batches and looks at J1 J2^T; here J1 = J2, one batch's "
    "Gramian, which is biased."
)

_TABLE = (
    Method("ls", "Linear scalarization: the sum", "nothing", sca.Sum, aliases=("sum",)),
    Method("mean", "Linear scalarization: the mean", "nothing", sca.Mean),
    Method("constant", "Linear scalarization: weights of your own", "nothing", sca.Constant),
    Method(
        "rlw", "Random loss weighting", "nothing", sca.Random, ("lin2022rlw",), aliases=("random",)
    ),
    Method(
        "stl",
        "Single-task learning: one of the losses",
        "nothing",
        STL,
        ("caruana1997multitask",),
        note="task: the position of the task that is learnt.",
        build=sized,
    ),
    Method(
        "si",
        "Scale-invariant scalarization: the sum of logarithms",
        "losses",
        SI,
        ("navon2022nash",),
        note="Losses must be positive.",
        aliases=("scale-invariant",),
    ),
    Method(
        "gls",
        "Geometric loss strategy",
        "losses",
        sca.GeometricMean,
        ("chennupati2019gls",),
        aliases=("geometric-mean",),
    ),
    Method(
        "stch",
        "Smooth Tchebycheff scalarization",
        "losses",
        sca.STCH,
        ("lin2024stch",),
        {"mu": 0.1},
        note="The paper tries mu in {0.01, 0.1, 0.5, 1} and finds none best everywhere.",
    ),
    Method(
        "pbi",
        "Penalty-based boundary intersection",
        "losses",
        sca.PBI,
        ("zhang2007moead",),
        {"theta": 5.0, "weights": None},
        note="weights=None stands for equal ones. Weights of tasks can be negative.",
        build=uniform,
    ),
    Method(
        "cosmos",
        "COSMOS: linear scalarization with a cosine penalty",
        "losses",
        sca.COSMOS,
        ("ruchte2021cosmos",),
        {"lambda_": 0.1, "weights": None},
        note=(
            "weights=None stands for equal ones. The paper's lambda_ goes from 0.01 to 8, by data "
            "set; 0.1 is a mild choice of this package. Weights of tasks can be negative."
        ),
        build=uniform,
    ),
    Method(
        "uw",
        "Uncertainty weighting",
        "losses",
        sca.UW,
        ("kendall2018uw",),
        trained=True,
        build=sized,
    ),
    Method(
        "imtl-l",
        "Impartial multi-task learning, loss balance",
        "losses",
        sca.IMTLL,
        ("liu2021imtl",),
        trained=True,
        build=sized,
    ),
    Method("dwa", "Dynamic weight average", "losses", sca.DWA, ("liu2019dwa",)),
    Method(
        "famo",
        "Fast adaptive multitask optimization",
        "losses",
        sca.FAMO,
        ("liu2023famo",),
        note="weight_decay is that of the paper's Algorithm 2; the authors' code has 1e-5.",
        build=sized,
    ),
    Method(
        "slaw",
        "Scaled loss approximate weighting",
        "losses",
        SLAW,
        ("crawshaw2021slaw",),
        note="The moving averages start as in the authors' code.",
    ),
    Method(
        "ldc-mtl",
        "Loss discrepancy control",
        "losses",
        LDCMTL,
        ("xiao2025ldcmtl",),
        trained=True,
        note=(
            "The authors' lambda_ is 0.1 (Cityscapes), 0.05 (NYUv2, QM9) and 0.01 (CelebA). One "
            "number a task in the place of the paper's router. The order of the tasks matters. "
            "Weights of tasks can be negative."
        ),
        build=sized,
    ),
    Method(
        "go4align",
        "Group optimization for multi-task alignment",
        "losses",
        GO4Align,
        ("shen2024go4align",),
        note="Losses must be positive. The groups are K-means', found exactly: nothing is drawn.",
    ),
    Method(
        "mgda",
        "Multiple-gradient descent algorithm",
        "gramian",
        MGDA,
        ("desideri2012mgda", "sener2018mgda"),
    ),
    Method("pcgrad", "Projecting conflicting gradients", "gramian", PCGrad, ("yu2020pcgrad",)),
    Method("graddrop", "Gradient sign dropout", "gradients", agg.GradDrop, ("chen2020graddrop",)),
    Method("gradvac", "Gradient vaccine", "gramian", GradVac, ("wang2021gradvac",)),
    Method(
        "imtl-g",
        "Impartial multi-task learning, gradient balance",
        "gramian",
        agg.IMTLG,
        ("liu2021imtl",),
    ),
    Method(
        "imtl",
        "Impartial multi-task learning, loss and gradient balance",
        "gramian",
        IMTL,
        ("liu2021imtl",),
        note="Give its parameters to the optimizer, as those of imtl-l.",
        trained=True,
        build=sized,
    ),
    Method(
        "gradnorm",
        "Gradient normalisation",
        "gramian",
        GradNorm,
        ("chen2018gradnorm",),
        note=(
            "Norms of all shared parameters, not of the last layer. Losses must be positive. That "
            "the weights' step is Adam's with lr 0.025 is not certain from the paper."
        ),
    ),
    Method(
        "cagrad",
        "Conflict-averse gradient descent",
        "gramian",
        CAGrad,
        ("liu2021cagrad",),
    ),
    Method(
        "conicgrad",
        "The best direction within a cone around the mean gradient",
        "gramian",
        ConicGrad,
        ("hassanpour2025conicgrad",),
        note=(
            "The paper's problem, solved exactly in a way of this package's own; the default of c "
            "is its choice as well."
        ),
    ),
    Method(
        "aligned-mtl",
        "Independent component alignment",
        "gramian",
        agg.AlignedMTL,
        ("senushkin2023aligned",),
    ),
    Method(
        "upgrad",
        "Unconflicting projection of gradients",
        "gramian",
        agg.UPGrad,
        ("quinton2024jacobian",),
        {"projector": ExactProjector()},
    ),
    Method(
        "dualproj",
        "Projection onto the dual cone",
        "gramian",
        agg.DualProj,
        ("lopezpaz2017gem",),
        {"projector": ExactProjector()},
    ),
    Method(
        "config", "Conflict-free inverse gradients", "gradients", agg.ConFIG, ("liu2025config",)
    ),
    Method("excess-mtl", "Excess risks", "gradients", agg.ExcessMTL, ("he2024excessmtl",)),
    Method(
        "moco",
        "Stochastic multi-objective gradient correction",
        "gradients",
        MoCo,
        ("fernando2023moco",),
        note=(
            "Keeps a tracked gradient of each task. Algorithm 1 of the paper, with LibMTL's step "
            "sizes, but not its normalisation of the gradients."
        ),
    ),
    Method(
        "db-mtl",
        "Dual balancing",
        "gradients",
        DBMTL,
        ("lin2023dbmtl",),
        note=(
            "Keeps an averaged gradient of each task. The paper tunes beta for each benchmark. "
            "Losses must be positive."
        ),
    ),
    Method(
        "sdmgrad",
        "Stochastic direction-oriented multi-objective gradient descent",
        "gramian",
        SDMGradWeighting,
        ("xiao2023sdmgrad",),
        note=_ONE_BATCH,
        build=of_gramian,
    ),
    Method(
        "modo",
        "Multi-objective gradient with double sampling",
        "gramian",
        agg.MoDoWeighting,
        ("chen2024modo",),
        note=_ONE_BATCH,
        build=of_gramian,
    ),
    Method(
        "cr-mogm",
        "Moving average of another method's weights",
        "gramian",
        agg.CRMOGMWeighting,
        ("zhou2022crmogm",),
        {"base": "mgda"},
        note="base: the name of a method of the Gramian, taken with its default options.",
        build=_smoothed,
    ),
    Method(
        "pcd",
        "Priority-constrained descent",
        "gramian",
        PCD,
        ("varam2026pcd",),
        note="The first task is the primary one.",
    ),
    Method(
        "krum",
        "Krum",
        "gramian",
        agg.Krum,
        ("blanchard2017krum",),
        {"n_byzantine": 0},
        note="No task is taken to be adversarial; the gradient nearest to the others is selected.",
        tasks_for=lambda options: max(options["n_byzantine"] + 3, options.get("n_selected", 1)),
    ),
    Method(
        "trimmed-mean",
        "Coordinatewise trimmed mean",
        "gradients",
        agg.TrimmedMean,
        ("yin2018trimmed",),
        {"trim_number": 1},
        note="The largest and the smallest value of each coordinate are left out.",
        tasks_for=lambda options: 2 * options["trim_number"] + 1,
    ),
    Method(
        "nash-mtl",
        "Nash bargaining",
        "gramian",
        NashMTL,
        ("navon2022nash",),
    ),
    Method(
        "fairgrad",
        "Fair resource allocation",
        "gramian",
        FairGrad,
        ("ban2024fairgrad",),
    ),
)

_BY_NAME = {name: method for method in _TABLE for name in (method.name, *method.aliases)}


def _types(method: Method) -> list[type[Any]]:
    """The classes of a method: aggregator, weighting and scalarizer of one name."""
    base = method.kind.__name__.removesuffix("Weighting")
    places = (agg, sys.modules[method.kind.__module__])
    twins = [getattr(p, base + suffix, None) for p in places for suffix in ("", "Weighting")]
    return [method.kind, *(twin for twin in twins if twin is not None)]


_BY_TYPE = {kind: method for method in _TABLE for kind in _types(method)}


def available() -> tuple[str, ...]:
    """The names of all methods, without their aliases."""
    return tuple(method.name for method in _TABLE)


def describe(name: str) -> Method:
    """What is known of a method.

    Args:
        name: Its name or an alias, in any case, with ``-`` or ``_``.

    Returns:
        Its entry in the table.

    Raises:
        ValueError: If there is no such method.

    Example:
        >>> from samo import aggregation
        >>> aggregation.describe("CAGrad").defaults
        {'c': 0.4}
    """
    normal = name.lower().replace("_", "-")
    if normal in _BY_NAME:
        return _BY_NAME[normal]
    nearest = difflib.get_close_matches(normal, _BY_NAME, n=1, cutoff=0.5)
    hint = f", did you mean {nearest[0]!r}?" if nearest else "."
    raise ValueError(f"There is no method {name!r}{hint} The methods are {', '.join(available())}.")


def create(name: str, n_tasks: int, **options: Any) -> Aggregator | Scalarizer:
    """Makes a method from its name.

    Args:
        name: Its name or an alias, in any case, with ``-`` or ``_``.
        n_tasks: The number of tasks K.
        **options: Those of TorchJD's constructor; `describe` tells the defaults. Where TorchJD
            takes a tensor, a list of numbers does.

    Returns:
        A ``GramianWeightedAggregator`` where the Gramian is enough, another ``Aggregator`` where it
        is not, a ``Scalarizer`` where the losses are.

    Raises:
        ValueError: If there is no such method, if it does not take that few tasks, or if the value
            of an option is out of its range.
        TypeError: If an option is unknown, missing, or of the wrong type.
        ImportError: If the method needs a package that is not installed.

    Example:
        >>> from samo import aggregation
        >>> aggregation.create("constant", 2, weights=[0.3, 0.7])
        Constant(weights=tensor([0.3000, 0.7000]))
    """
    method = describe(name)
    try:
        values = _checked(method, n_tasks, {**method.published, **options})
        built: Aggregator | Scalarizer = method.build(method.kind, n_tasks, values)
    except ImportError as error:
        raise ImportError(
            f"Method {method.name!r} needs packages that are not installed: "
            f'pip install "torch-samo[train]". ({error})'
        ) from error
    except (TypeError, ValueError) as error:
        raise type(error)(f"Method {method.name!r}: {error}") from error
    return built


def method_of(aggregator: Aggregator | Weighting[Any] | Scalarizer) -> Method | None:
    """Finds the method that an object is of.

    Args:
        aggregator: A TorchJD aggregator, weighting or scalarizer, made by name or not.

    Returns:
        Its entry, with the references of the methods within it as well (CR-MOGM has one), or None
        for a method that is not in the table.
    """
    kinds = [kind for module in aggregator.modules() for kind in type(module).__mro__]
    found = [_BY_TYPE[kind] for kind in kinds if kind in _BY_TYPE]
    if not found:
        return None
    references = dict.fromkeys(key for method in found for key in method.references)
    return replace(found[0], references=tuple(references))


def _checked(method: Method, n_tasks: int, options: Options) -> Options:
    """The options as TorchJD takes them."""
    takes = f"it takes {', '.join(method.options) or 'none'}"
    if unknown := [name for name in options if name not in method.options]:
        raise TypeError(f"unknown option {', '.join(map(repr, unknown))}; {takes}.")
    required = [name for name in method.options if name not in method.defaults]
    if missing := [name for name in required if name not in options]:
        raise TypeError(f"missing option {', '.join(map(repr, missing))}; {takes}.")
    if n_tasks < (fewest := method.tasks_for(options)):
        raise ValueError(f"it needs at least {fewest} tasks; found n_tasks={n_tasks}.")
    values = {}
    for name, value in options.items():
        if isinstance(value, list | tuple):
            value = torch.tensor(value, dtype=torch.get_default_dtype())
        # PCD's tau has a value for each task but the first; all other vectors have one a task.
        length = n_tasks - (name == "tau")
        if isinstance(value, Tensor) and value.shape != (length,):
            raise ValueError(
                f"{name} must have {length} values for {n_tasks} tasks; found shape "
                f"{tuple(value.shape)}."
            )
        values[name] = value
    return values
