"""The table of all methods: one entry for each name.

An entry has a name, a title, the input that the method needs, its class, and optionally references,
published defaults, a note and aliases, as described in `Method`.
"""

from __future__ import annotations

import torchjd.aggregation as agg
from torchjd import scalarization as sca

from ._cagrad import CAGrad
from ._conic_grad import ConicGrad
from ._db_mtl import DBMTL
from ._dwa import DWA
from ._fair_grad import FairGrad
from ._fair_rise import FairRise
from ._go4align import GO4Align
from ._grad_norm import GradNorm
from ._gradvac import GradVac
from ._imtl import IMTL
from ._ldc_mtl import LDCMTL
from ._method import Method
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

_ONE_BATCH = (
    "The paper uses J1 J2^T of two independent batches. Here J1 = J2, so the Gramian of the batch "
    "is a biased estimate."
)

METHODS = (
    Method("ls", "Linear scalarization: sum", "nothing", sca.Sum, aliases=("sum",)),
    Method("mean", "Linear scalarization: mean", "nothing", sca.Mean),
    Method("constant", "Linear scalarization with given weights", "nothing", sca.Constant),
    Method(
        "rlw", "Random loss weighting", "nothing", sca.Random, ("lin2022rlw",), aliases=("random",)
    ),
    Method(
        "stl",
        "Single-task learning: one of the losses",
        "nothing",
        STL,
        ("caruana1997multitask",),
        note="task is the index of the trained task.",
    ),
    Method(
        "si",
        "Scale-invariant scalarization: sum of logarithms",
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
        note="The paper tries mu in {0.01, 0.1, 0.5, 1}; none of them is best everywhere.",
    ),
    Method(
        "pbi",
        "Penalty-based boundary intersection",
        "losses",
        sca.PBI,
        ("zhang2007moead",),
        {"theta": 5.0, "weights": None},
        note="weights=None means equal weights. Task weights can be negative.",
    ),
    Method(
        "cosmos",
        "COSMOS: linear scalarization with a cosine penalty",
        "losses",
        sca.COSMOS,
        ("ruchte2021cosmos",),
        {"lambda_": 0.1, "weights": None},
        note=(
            "weights=None means equal weights. The paper's lambda_ is from 0.01 to 8, depending on "
            "the data set; 0.1 is this package's choice. Task weights can be negative."
        ),
    ),
    Method("uw", "Uncertainty weighting", "losses", sca.UW, ("kendall2018uw",), trained=True),
    Method(
        "imtl-l",
        "Impartial multi-task learning, loss balance",
        "losses",
        sca.IMTLL,
        ("liu2021imtl",),
        trained=True,
    ),
    Method("dwa", "Dynamic weight average", "losses", DWA, ("liu2019dwa",)),
    Method(
        "famo",
        "Fast adaptive multitask optimization",
        "losses",
        sca.FAMO,
        ("liu2023famo",),
        note="weight_decay is that of the paper's Algorithm 2; the authors' code uses 1e-5.",
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
        note=(
            "The authors' lambda_ is 0.1 (Cityscapes), 0.05 (NYUv2, QM9) and 0.01 (CelebA). One "
            "parameter per task replaces the paper's router. The order of the tasks matters. Task "
            "weights can be negative."
        ),
        trained=True,
    ),
    Method(
        "go4align",
        "Group optimization for multi-task alignment",
        "losses",
        GO4Align,
        ("shen2024go4align",),
        note="Losses must be positive. The K-means clusters are exact, without random numbers.",
    ),
    Method(
        "fair-rise",
        "α-fair weights that follow the rise of the losses",
        "sharpness",
        FairRise,
        ("ban2024fairgrad",),
        note=(
            "The direction of fairgrad, without gradients of single tasks; this package's own "
            "method. Needs `GSAM(.., rho_own=0)`, with a small radius."
        ),
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
        note="Pass its parameters to the optimizer, as for imtl-l.",
        trained=True,
    ),
    Method(
        "gradnorm",
        "Gradient normalisation",
        "gramian",
        GradNorm,
        ("chen2018gradnorm",),
        note=(
            "Uses the norms of all shared parameters, not of the last shared layer. Losses must be "
            "positive. The paper does not state the optimizer of the weights; here it is Adam with "
            "learning rate 0.025."
        ),
    ),
    Method("cagrad", "Conflict-averse gradient descent", "gramian", CAGrad, ("liu2021cagrad",)),
    Method(
        "conicgrad",
        "The best direction in a cone around the mean gradient",
        "gramian",
        ConicGrad,
        ("hassanpour2025conicgrad",),
        note="An exact solver for the paper's problem. The default of c is this package's choice.",
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
            "Keeps a moving average of each task's gradient. The paper's Algorithm 1 with the step "
            "sizes of LibMTL, but without its normalisation of the gradients."
        ),
    ),
    Method(
        "db-mtl",
        "Dual balancing",
        "gradients",
        DBMTL,
        ("lin2023dbmtl",),
        note=(
            "Keeps a moving average of each task's gradient. The paper tunes beta for each "
            "benchmark. Losses must be positive."
        ),
    ),
    Method(
        "sdmgrad",
        "Stochastic direction-oriented multi-objective gradient descent",
        "gramian",
        SDMGradWeighting,
        ("xiao2023sdmgrad",),
        note=_ONE_BATCH,
    ),
    Method(
        "modo",
        "Multi-objective gradient with double sampling",
        "gramian",
        agg.MoDoWeighting,
        ("chen2024modo",),
        note=_ONE_BATCH,
    ),
    Method(
        "cr-mogm",
        "Moving average of the weights of another method",
        "gramian",
        agg.CRMOGMWeighting,
        ("zhou2022crmogm",),
        {"base": "mgda"},
        note="base is the name of a method of the Gramian, with its default options.",
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
        note="Selects the gradient nearest to the others. By default, no task is adversarial.",
        tasks_for=lambda options: max(options["n_byzantine"] + 3, options.get("n_selected", 1)),
    ),
    Method(
        "trimmed-mean",
        "Coordinatewise trimmed mean",
        "gradients",
        agg.TrimmedMean,
        ("yin2018trimmed",),
        {"trim_number": 1},
        note="Discards the largest and the smallest values of each coordinate.",
        tasks_for=lambda options: 2 * options["trim_number"] + 1,
    ),
    Method("nash-mtl", "Nash bargaining", "gramian", NashMTL, ("navon2022nash",)),
    Method("fairgrad", "Fair resource allocation", "gramian", FairGrad, ("ban2024fairgrad",)),
)
