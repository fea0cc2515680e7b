"""Results of runs that never were, with numbers that are easy to follow."""

from __future__ import annotations

from typing import Any

from samo.report import Entry

TASKS = ("left", "right")


def entry(
    method: str = "ls",
    sharpness: str = "erm",
    rho: float | None = None,
    seed: int = 0,
    *,
    test: tuple[float, ...] = (90.0, 80.0),
    score: float = 85.0,
    step_ms: float = 2.0,
    task: str | None = None,
    epochs: int = 3,
    higher_is_better: bool = True,
    level: str = "parameter",
    ema: float | None = None,
) -> Entry:
    """A finished run; of a single-task baseline where `task` is given.

    With `ema`, averaged weights score as many points more on all data.
    """
    tasks = TASKS if task is None else (task,)

    def scores(offset: float) -> dict[str, dict[str, float]]:
        values = dict(zip(tasks, test, strict=False))
        return {t: {"accuracy": value + offset, "loss": 1.0} for t, value in values.items()}

    results: dict[str, Any] = {
        "config": {"seed": seed},
        "tasks": list(tasks),
        "metrics": {
            t: {"accuracy": {"higher_is_better": higher_is_better, "unit": "%"}} for t in tasks
        },
        "selected": {"epoch": epochs, "score": score, "validation": scores(-1), "test": scores(0)},
        "history": [
            {"epoch": e, "train": scores(e), "validation": scores(-e), "score": score}
            for e in range(1, epochs + 1)
        ],
        "timing": {"step_ms": step_ms},
    }
    if ema is not None:

        def raised(part: dict[str, Any]) -> dict[str, Any]:
            splits = ("train", "validation", "test")
            return {
                name: {t: {"accuracy": s["accuracy"] + ema, "loss": 1.0} for t, s in value.items()}
                if name in splits
                else value + ema
                for name, value in part.items()
                if name in (*splits, "score")
            }

        results["ema"] = {"selected": {"epoch": epochs, **raised(results["selected"])}}
        results["history"] = [{**e, "ema": raised(e)} for e in results["history"]]
        results["timing"]["ema_ms"] = 0.5
    settings = config(method, sharpness, rho, seed, level) | {
        "ema": 0.98 if ema is not None else 0.0
    }
    return Entry(settings, task is not None, results)


def failed(method: str, sharpness: str, rho: float | None = None, seed: int = 0) -> Entry:
    """A run without results."""
    return Entry(config(method, sharpness, rho, seed), False, None)


def config(
    method: str, sharpness: str, rho: float | None, seed: int, level: str = "parameter"
) -> dict[str, Any]:
    return {
        "benchmark": "crafted",
        "method": method,
        "sharpness": sharpness,
        "rho": rho,
        "level": level,
        "ema": 0.0,
        "seed": seed,
    }


def comparison() -> list[Entry]:
    """Two methods with three presets and three seeds, of which ρ has two values."""
    entries = [
        entry(task=task, seed=seed, test=(level + seed,))
        for seed in range(3)
        for task, level in (("left", 91.0), ("right", 85.0))
    ]
    for m, method in enumerate(("ls", "fairgrad")):
        for seed in range(3):
            test = (88.0 + seed + m, 81.0 - seed)
            entries.append(entry(method, "erm", seed=seed, test=test, step_ms=2.0 + m))
            for p, sharpness in enumerate(("gsam", "samo")):
                for rho in (0.05, 0.2):
                    better = (test[0] + p + rho, test[1] + 1)
                    score = 80 + p + (rho if p else -rho) + 0.1 * seed
                    entries.append(
                        entry(method, sharpness, rho, seed, test=better, score=score, step_ms=4.0)
                    )
    return entries
