"""Molecules in memory, and their graphs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .._batches import index_batches
from ..networks import CompleteGraphs

ELEMENTS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
LARGEST = 29
BOND_TYPES = 4  # single, double, triple, aromatic
NODE_FEATURES = len(ELEMENTS) + 6
EDGE_FEATURES = BOND_TYPES + 1

_HARTREE = 27.211386246  # eV
_KCAL_PER_MOL = 0.04336414  # eV


@dataclass(frozen=True)
class Target:
    """A property of molecules.

    Args:
        column: The name in the files.
        given: The unit in the files.
        unit: The unit in the papers.
        factor: The factor that converts a value to `unit`.
    """

    column: str
    given: str
    unit: str
    factor: float = 1.0


def _energy(column: str) -> Target:
    return Target(column, "Ha", "meV", 1e3 * _HARTREE)


def _atomisation_energy(column: str) -> Target:
    return Target(column, "kcal/mol", "meV", 1e3 * _KCAL_PER_MOL)


# In the order of the papers' tables. The last four energies are atomisation energies.
TARGETS = {
    "mu": Target("mu", "D", "D"),
    "alpha": Target("alpha", "a0^3", "a0^3"),
    "homo": _energy("homo"),
    "lumo": _energy("lumo"),
    "gap": _energy("gap"),
    "r2": Target("r2", "a0^2", "a0^2"),
    "zpve": _energy("zpve"),
    "u0": _atomisation_energy("u0_atom"),
    "u": _atomisation_energy("u298_atom"),
    "h": _atomisation_energy("h298_atom"),
    "g": _atomisation_energy("g298_atom"),
    "cv": Target("cv", "cal/mol/K", "cal/(mol K)"),
}


@dataclass(frozen=True)
class Molecules:
    """Molecules of up to A atoms, padded.

    Args:
        numbers: The atomic number of each atom, ``[M, A]``, uint8; zero for padding.
        positions: The positions of the atoms in Å, ``[M, A, 3]``.
        bonds: The bond of each pair of atoms, ``[M, A, A]``, uint8: 1 to 3 for single to triple, 4
            for aromatic, 0 for none.
        targets: The `TARGETS` in the units of the papers, ``[M, 12]``, double precision.
    """

    numbers: Tensor
    positions: Tensor
    bonds: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, chosen: Tensor) -> Self:
        """Returns copies of the molecules with these indices."""
        return type(self)(
            self.numbers[chosen], self.positions[chosen], self.bonds[chosen], self.targets[chosen]
        )

    def graphs(self, chosen: Tensor) -> CompleteGraphs:
        """Creates the graphs of a batch, as PyTorch Geometric's example does.

        A node has 11 features: the element (one-hot out of five), the atomic number, four zeros,
        and the number of hydrogens bonded to it. The zeros stand for aromaticity and hybridisation
        in PyTorch Geometric's data set, which it never computes. An edge has 5 features: the type
        of the bond (one-hot; zeros without a bond) and the distance in Å.

        Args:
            chosen: The indices of the molecules.

        Returns:
            Their graphs, padded to the largest of them.
        """
        numbers = self.numbers[chosen].long()
        real = numbers > 0
        size = int(real.sum(1).max())
        numbers, real = numbers[:, :size], real[:, :size]
        bonds = self.bonds[chosen, :size, :size].long()
        elements = torch.tensor(list(ELEMENTS.values()))
        hydrogens = ((bonds > 0) & (numbers == 1).unsqueeze(1)).sum(2)
        scalars = torch.stack([numbers, *[torch.zeros_like(numbers)] * 4, hydrogens], dim=2)
        nodes = torch.cat([numbers.unsqueeze(2) == elements, scalars], dim=2).float()
        positions = self.positions[chosen, :size]
        away = positions.unsqueeze(1) - positions.unsqueeze(2)
        kinds = F.one_hot(bonds, BOND_TYPES + 1)[..., 1:]
        edges = torch.cat([kinds, away.norm(dim=3, keepdim=True)], dim=3)
        return CompleteGraphs(nodes, edges, real)


@dataclass(frozen=True)
class MoleculeBatches:
    """Batches of molecules: their graphs, and targets of shape ``[N, tasks]``.

    Args:
        molecules: The molecules.
        targets: Their targets, ``[M, tasks]``.
        batch_size: The number of molecules per batch; the last one may be smaller.
        generator: Shuffles anew at each iteration; None keeps the order.
    """

    molecules: Molecules
    targets: Tensor
    batch_size: int
    generator: Generator | None = None

    def __len__(self) -> int:
        return -(-len(self.molecules) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[CompleteGraphs, Tensor]]:
        for chosen in index_batches(len(self.molecules), self.batch_size, self.generator):
            yield self.molecules.graphs(chosen), self.targets[chosen]
