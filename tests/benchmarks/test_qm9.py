"""QM9 in both layouts: reading and training."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from samo.benchmarks import Split, create
from samo.benchmarks.qm9 import QM9
from samo.benchmarks.qm9._benchmark import split_molecules
from samo.benchmarks.qm9._files import read_molecules
from samo.benchmarks.qm9._molecules import Molecules
from samo.training import train
from samo.training._config import configured
from samo.training._evaluate import evaluate
from tests.benchmarks.molecules import COLUMNS, NUMBERS, Made, make, write_raw, write_subset

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
EV = 27.211386246
# As PyTorch Geometric's documentation converts the columns, in meV where the papers are.
PAPER = {
    "mu": ("mu", 1.0),
    "alpha": ("alpha", 1.0),
    "homo": ("homo", 1000 * EV),
    "lumo": ("lumo", 1000 * EV),
    "gap": ("gap", 1000 * EV),
    "r2": ("r2", 1.0),
    "zpve": ("zpve", 1000 * EV),
    "u0": ("u0_atom", 43.36414),
    "u": ("u298_atom", 43.36414),
    "h": ("h298_atom", 43.36414),
    "g": ("g298_atom", 43.36414),
    "cv": ("cv", 1.0),
}


@pytest.fixture(scope="module")
def made() -> Made:
    return make()


@pytest.fixture(scope="module")
def raw(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_raw(tmp_path_factory.mktemp("raw"), made)


@pytest.fixture(scope="module")
def subset(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_subset(tmp_path_factory.mktemp("subset"), made)


def values(made: Made, task: str) -> np.ndarray:
    column, factor = PAPER[task]
    return factor * made.rows[:, COLUMNS.index(column)]


def check(found: Molecules, made: Made, kept: list[int]) -> None:
    assert len(found) == len(kept)
    for i, k in enumerate(kept):
        atoms, n = made.atoms[k], len(made.atoms[k])
        assert found.numbers[i].tolist() == [NUMBERS[a[0]] for a in atoms] + [0] * (29 - n)
        expected = torch.tensor([a[1:] for a in atoms])
        torch.testing.assert_close(found.positions[i, :n], expected)
        bonds = torch.zeros(29, 29, dtype=torch.uint8)
        for a, b, kind in made.bonds[k]:
            bonds[a - 1, b - 1] = bonds[b - 1, a - 1] = kind
        assert torch.equal(found.bonds[i], bonds)
    for column, task in enumerate(PAPER):
        np.testing.assert_allclose(found.targets[:, column], values(made, task)[kept], rtol=1e-12)


def test_the_raw_layout_is_read_without_the_excluded_molecules(raw: Path, made: Made) -> None:
    kept = [i for i in range(len(made.names)) if i + 1 not in (2, 9)]
    check(read_molecules(raw), made, kept)
    check(read_molecules(raw / "raw"), made, kept)


def test_the_subset_is_read_and_its_bonds_are_determined(subset: Path, made: Made) -> None:
    check(read_molecules(subset), made, list(range(len(made.names))))
    check(read_molecules(str(subset / "qm9_3d.npz")), made, list(range(len(made.names))))


def test_graphs_are_those_of_pytorch_geometric_s_example(subset: Path, made: Made) -> None:
    """Atom by atom, with the library's own distances."""
    from torch_geometric.data import Data
    from torch_geometric.transforms import Distance

    molecules = read_molecules(subset)
    graphs = molecules.graphs(torch.tensor([7, 0, 3]))
    assert graphs.nodes.shape == (3, 5, 11)
    for g, k in enumerate([7, 0, 3]):
        atoms, n = made.atoms[k], len(made.atoms[k])
        assert graphs.real[g].tolist() == [i < n for i in range(5)]
        kinds = {frozenset((a - 1, b - 1)): kind for a, b, kind in made.bonds[k]}
        for i, (symbol, *_) in enumerate(atoms):
            hydrogens = sum(
                i in pair and all(atoms[j][0] == "H" for j in pair - {i}) for pair in kinds
            )
            one_hot = [float(symbol == element) for element in ("H", "C", "N", "O", "F")]
            expected = [*one_hot, NUMBERS[symbol], 0, 0, 0, 0, hydrogens]
            assert graphs.nodes[g, i].tolist() == expected
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        bonds = torch.tensor(
            [
                [float(kinds.get(frozenset(pair), 0) == kind) for kind in (1, 2, 3, 4)]
                for pair in pairs
            ]
        )
        data = Data(
            pos=torch.tensor([a[1:] for a in atoms]),
            edge_index=torch.tensor(pairs).T,
            edge_attr=bonds,
        )
        expected_edges = Distance(norm=False)(data).edge_attr
        found = torch.stack([graphs.edges[g, j, i] for i, j in pairs])
        torch.testing.assert_close(found, expected_edges)


def whole(benchmark: QM9, split: Split) -> tuple[Any, Tensor]:
    return next(iter(benchmark.batches(split, benchmark.tasks, batch_size=1000)))


@pytest.mark.parametrize("gap", [False, True])
def test_targets_are_standardised_over_the_training_part(
    subset: Path, made: Made, gap: bool
) -> None:
    benchmark = QM9(data=subset, gap=gap)
    expected_tasks = [task for task in PAPER if gap or task != "gap"]
    assert list(benchmark.tasks) == expected_tasks == list(benchmark.metrics)
    train_part = whole(benchmark, "train")[1]
    torch.testing.assert_close(
        train_part.mean(0), torch.zeros(len(expected_tasks)), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(train_part.std(0), torch.ones(len(expected_tasks)))
    # Undone, all splits together are all values, each once.
    for column, task in enumerate(expected_tasks):
        standardised = torch.cat([whole(benchmark, split)[1][:, column] for split in SPLITS])
        scale = benchmark.metrics[task]["MAE"].scale
        expected = values(made, task)
        found = np.sort(standardised.double().numpy() * scale)
        np.testing.assert_allclose(
            found - found[0], np.sort(expected) - expected.min(), rtol=1e-5, atol=1e-5 * scale
        )


@pytest.mark.parametrize(("n", "held_out"), [(130_831, 10_000), (14_170, 1_083), (40, 3), (4, 1)])
def test_the_split_is_disjoint_and_in_proportion(n: int, held_out: int) -> None:
    parts = split_molecules(n, n, seed=0)
    assert {split: len(part) for split, part in parts.items()} == {
        "train": n - 2 * held_out,
        "validation": held_out,
        "test": held_out,
    }
    assert torch.equal(torch.cat(list(parts.values())).sort()[0], torch.arange(n))
    assert not torch.equal(parts["train"], split_molecules(n, n, seed=1)["train"])


def test_a_number_of_molecules_is_drawn_by_the_seed(subset: Path) -> None:
    parts = split_molecules(40, 20, seed=0)
    drawn = torch.cat(list(parts.values())).tolist()
    assert len(drawn) == len(set(drawn)) == 20
    assert max(drawn) >= 20
    assert [len(part) for part in parts.values()] == [2, 2, 16]
    few = QM9(data=subset, molecules=20)
    assert [len(whole(few, split)[1]) for split in SPLITS] == [16, 2, 2]
    for wrong in (3, 41):
        with pytest.raises(ValueError, match=rf"molecules must be in 4..40; found {wrong}"):
            QM9(data=subset, molecules=wrong)


def test_the_order_of_batches_depends_on_the_generator_only(subset: Path) -> None:
    benchmark = QM9(data=subset)

    def epoch(generator: Generator | None) -> Tensor:
        batches = benchmark.batches("train", benchmark.tasks, 7, generator)
        found = [targets for _, targets in batches]
        assert len(batches) == len(found) == 5
        return torch.cat(found)

    generator = Generator().manual_seed(3)
    first, second = epoch(generator), epoch(generator)
    assert not torch.equal(first, second)
    assert torch.equal(first.sort(0)[0], second.sort(0)[0])
    assert torch.equal(epoch(Generator().manual_seed(3)), first)
    assert torch.equal(epoch(None), epoch(None))


def test_errors_are_reported_in_the_papers_units(subset: Path, made: Made) -> None:
    """A network that predicts zeros predicts the mean of the training part."""
    benchmark = QM9(data=subset)
    model = benchmark.model()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    scores, _ = evaluate(
        benchmark,
        model,
        benchmark.tasks,
        benchmark.batches("test", benchmark.tasks, batch_size=2),
        torch.device("cpu"),
    )
    parts = split_molecules(len(made.names), len(made.names), seed=0)
    for task in benchmark.tasks:
        y = values(made, task)
        mean, std = y[parts["train"]].mean(), y[parts["train"]].std(ddof=1)
        expected = np.abs(y[parts["test"]] - mean).mean()
        assert scores[task]["MAE"] == pytest.approx(expected, rel=1e-4)
        assert scores[task]["standardised MAE"] == pytest.approx(100 * expected / std, rel=1e-4)
    assert {task: m["MAE"].unit for task, m in benchmark.metrics.items()} == {
        "mu": "D",
        "alpha": "a0^3",
        "r2": "a0^2",
        "cv": "cal/(mol K)",
        **dict.fromkeys(("homo", "lumo", "zpve", "u0", "u", "h", "g"), "meV"),
    }


@pytest.mark.parametrize(("layout", "sharpness"), [("raw", "erm"), ("subset", "samo")])
def test_training(
    layout: str, sharpness: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data = request.getfixturevalue(layout)
    config = configured(
        benchmark="qm9",
        benchmark_options={"data": str(data), "width": 4},
        method="ls",
        sharpness=sharpness,
        epochs=2,
        batch_size=17,
        lr=0.03,
    )
    results = train(config, tmp_path / "run")
    losses = [np.mean([s["loss"] for s in e["train"].values()]) for e in results["history"]]
    assert losses[-1] < losses[0]
    assert set(results["last"]["test"]) == set(QM9.tasks)
    assert all(scores["MAE"] > 0 for scores in results["last"]["test"].values())


def test_a_missing_directory_and_invalid_options_raise_errors(subset: Path) -> None:
    with pytest.raises(ValueError, match="unknown option of benchmark 'qm9', 'dat'"):
        create("qm9", dat=str(subset))
    with pytest.raises(ValueError, match="width must be at least 1; found 0"):
        QM9(data=subset, width=0)
    with pytest.raises(ValueError, match="seed must be at least 0; found -1"):
        QM9(data=subset, seed=-1)


def test_the_error_without_pytorch_geometric_names_the_extra(
    subset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    with pytest.raises(ImportError, match=r'pip install "torch-samo\[graph\]"'):
        QM9(data=subset)


# On real molecules


@pytest.mark.skipif("SAMO_DATA" not in os.environ, reason="SAMO_DATA names no directory of data")
def test_on_real_molecules() -> None:
    folder = Path(os.environ["SAMO_DATA"]) / "qm9_subset"
    molecules = read_molecules(folder)
    assert len(molecules) == 14_170
    bonded = molecules.bonds > 0
    real = molecules.numbers > 0
    # Each hydrogen has one bond, each molecule hangs together, valences are hardly ever exceeded.
    assert (bonded.sum(2)[molecules.numbers == 1] == 1).all()
    reached = real & (torch.arange(29) == 0)
    for _ in range(16):
        reached |= (bonded & reached.unsqueeze(1)).any(2)
    assert torch.equal(reached, real)
    with np.load(folder / "qm9_3d.npz", allow_pickle=False) as file:
        triple = np.array([str(smiles).count("#") for smiles in file["smiles"]])
    found = (molecules.bonds == 3).sum((1, 2)).numpy() / 2
    assert (found == triple).mean() > 0.99
    # Known of the whole of QM9.
    names = list(PAPER)
    means = molecules.targets.mean(0)
    assert means[names.index("mu")].item() == pytest.approx(2.70, abs=0.05)
    assert means[names.index("alpha")].item() == pytest.approx(75.1, abs=0.5)
    assert means[names.index("homo")].item() == pytest.approx(-6530, abs=30)

    benchmark = QM9(data=folder, molecules=1000, width=8)
    torch.manual_seed(0)
    model = benchmark.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    batch = next(iter(benchmark.batches("train", benchmark.tasks, 64)))
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.stack(list(benchmark.losses(model, batch, benchmark.tasks).values())).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
