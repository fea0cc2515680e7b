"""The digits benchmarks, compared with scikit-learn's images."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Generator, Tensor

from samo.benchmarks import Benchmark, Digits, DigitsDomains, Split, create

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@pytest.fixture(scope="module")
def base() -> dict[bytes, set[int]]:
    """Scikit-learn's images, by their content, with their labels."""
    data = load_digits()
    found: dict[bytes, set[int]] = {}
    for image, label in zip(data.images, data.target, strict=True):
        found.setdefault((image / 16).astype(np.float32).tobytes(), set()).add(int(label))
    return found


def content(image: Tensor) -> bytes:
    return image.numpy().astype(np.float32).tobytes()


def whole(benchmark: Benchmark, split: Split) -> tuple[Tensor, ...]:
    return next(iter(benchmark.batches(split, benchmark.tasks, batch_size=10_000)))


def test_pairs_are_real_digits_with_their_labels_and_splits_share_none(base) -> None:
    apart = Digits(canvas=16)  # nothing overlaps: both digits can be cut out again
    used: dict[str, set[bytes]] = {}
    for split in SPLITS:
        x, left, right = whole(apart, split)
        corners = {"left": (x[:, 0, :8, :8], left), "right": (x[:, 0, 8:, 8:], right)}
        used[split] = set()
        for images, labels in corners.values():
            for image, label in zip(images, labels, strict=True):
                assert int(label) in base[content(image)]
                used[split].add(content(image))
        assert not x[:, 0, :8, 8:].any()
        assert not x[:, 0, 8:, :8].any()
    assert used["train"].isdisjoint(used["validation"])
    assert used["train"].isdisjoint(used["test"])
    assert used["validation"].isdisjoint(used["test"])
    # Nearly all of the base digits are in use: 60, 20 and 20 % of 1,797.
    assert len(used["validation"]) > 330
    assert len(used["test"]) > 340


def test_digits_overlap_by_the_darker_pixel() -> None:
    apart, overlapping = whole(Digits(canvas=16), "test"), whole(Digits(canvas=10), "test")
    assert torch.equal(apart[1], overlapping[1])
    assert torch.equal(apart[2], overlapping[2])
    for i in range(0, 50, 7):
        expected = np.zeros((10, 10), dtype=np.float32)
        for row in range(8):
            for column in range(8):
                expected[row, column] = apart[0][i, 0, row, column]
        for row in range(8):
            for column in range(8):
                ink = float(apart[0][i, 0, 8 + row, 8 + column])
                expected[2 + row, 2 + column] = max(expected[2 + row, 2 + column], ink)
        np.testing.assert_array_equal(overlapping[0][i, 0].numpy(), expected)


def test_domains_are_the_transformed_digits_and_share_none(base) -> None:
    benchmark = DigitsDomains(noise=0.0)
    undo = {
        "plain": lambda x: x,
        "rotated": lambda x: x.rot90(dims=(3, 2)),
        "inverted": lambda x: 1 - x,
        "noisy": lambda x: x,
    }
    seen: list[bytes] = []
    for split in SPLITS:
        batch = next(iter(benchmark.batches(split, benchmark.tasks, batch_size=10_000)))
        assert set(batch) == set(undo)
        for task, (x, labels) in batch.items():
            for image, label in zip(undo[task](x), labels, strict=True):
                assert int(label) in base[content(image)]
                seen.append(content(image))
    repeated = [image for image, times in Counter(seen).items() if times > 1]
    assert len(seen) == 1797
    assert repeated == []


def test_the_noise_has_the_given_standard_deviation() -> None:
    quiet, loud = DigitsDomains(noise=0.0), DigitsDomains(noise=0.1)
    x, y = (next(iter(b.batches("train", ["noisy"], 10_000)))["noisy"][0] for b in (quiet, loud))
    inner = (x > 0.4) & (x < 0.6)  # not reached by the clamping to [0, 1]
    assert (y - x)[inner].std().item() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("split", SPLITS)
def test_each_class_is_in_each_split_in_proportion(split: Split) -> None:
    labels = load_digits().target
    benchmark = DigitsDomains()
    batch = next(iter(benchmark.batches(split, benchmark.tasks, 10_000)))
    share = {"train": 0.6, "validation": 0.2, "test": 0.2}[split]
    for label in range(10):
        n = sum(int((y == label).sum()) for _, y in batch.values())
        assert n == pytest.approx(share * (labels == label).sum(), abs=6)


@pytest.mark.parametrize("name", ["digits", "digits-domains"])
def test_the_data_depends_on_its_seed_only(name: str) -> None:
    def tensors(seed: int) -> list[Tensor]:
        torch.rand(1)  # other draws make no difference
        benchmark = create(name, seed=seed)
        found: list[Tensor] = []
        for split in SPLITS:
            batch = whole(benchmark, split)
            parts = batch.values() if isinstance(batch, dict) else [batch]
            found += [tensor for part in parts for tensor in part]
        return found

    first, again, other = tensors(0), tensors(0), tensors(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, other, strict=True)
    )


@pytest.mark.parametrize("name", ["digits", "digits-domains"])
def test_making_the_data_does_not_change_the_global_generator(name: str) -> None:
    before = torch.get_rng_state()
    create(name)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_epoch_has_every_example_once_in_the_generator_s_order() -> None:
    benchmark = Digits(pairs=50)
    generator = Generator().manual_seed(0)
    batches = benchmark.batches("train", ["left"], 8, generator)
    epochs = [torch.cat([x for x, *_ in batches]) for _ in range(2)]
    ordered = torch.cat([x for x, *_ in benchmark.batches("train", ["left"], 8)])
    assert not torch.equal(epochs[0], epochs[1])
    for epoch in epochs:
        assert sorted(map(content, epoch)) == sorted(map(content, ordered))
    generator.manual_seed(0)
    assert torch.equal(torch.cat([x for x, *_ in batches]), epochs[0])


@pytest.mark.parametrize("name", ["digits", "digits-domains"])
def test_only_requested_heads_are_evaluated(name: str) -> None:
    benchmark = create(name)
    model = benchmark.model()
    evaluated = []
    for task in benchmark.tasks:
        head = model.get_submodule(f"heads.{task}")
        head.register_forward_hook(lambda *_, task=task: evaluated.append(task))
    batch = next(iter(benchmark.batches("train", benchmark.tasks, 4)))
    wanted = benchmark.tasks[1]
    assert list(benchmark.losses(model, batch, [wanted])) == [wanted]
    assert evaluated == [wanted]


def test_data_of_other_tasks_is_not_loaded() -> None:
    batch = next(iter(DigitsDomains().batches("train", ["rotated"], 4)))
    assert list(batch) == ["rotated"]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Digits, {"pairs": 0}, "pairs must be at least 1; found 0"),
        (Digits, {"canvas": 7}, "canvas must be in 8..16 pixels; found 7"),
        (Digits, {"canvas": 17}, "canvas must be in 8..16 pixels; found 17"),
        (Digits, {"width": 0}, "width must be at least 1; found 0"),
        (DigitsDomains, {"width": 0}, "width must be at least 1; found 0"),
        (DigitsDomains, {"noise": -0.1}, "noise must be at least 0; found -0.1"),
    ],
)
def test_invalid_options_raise_errors(kind, options, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**options)
