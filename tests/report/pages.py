"""Directories of runs that never were, as they lie on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TASKS = ("left", "right")
ENVIRONMENT = {"samo": "0.1.0", "torch": "2.13.0", "processors": 2, "device": "cpu"}


def config(
    method: str = "ls",
    sharpness: str = "erm",
    rho: float | None = None,
    seed: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """A configuration."""
    return {
        "benchmark": "digits",
        "benchmark_options": {},
        "tasks": None,
        "method": method,
        "method_options": {},
        "sharpness": sharpness,
        "rho": rho,
        "sharpness_options": {} if sharpness == "erm" else {"adaptive": False},
        "epochs": 3,
        "lr": 0.003,
        "average_last": 0,
        "seed": seed,
        **more,
    }


def results(config: dict[str, Any], offset: float = 0.0, step_ms: float = 2.0) -> dict[str, Any]:
    """What a finished run of a configuration leaves: its scores are higher by the offset."""
    tasks = config["tasks"] or TASKS

    def scores(more: float) -> dict[str, dict[str, float]]:
        return {
            task: {"accuracy": 80.0 + 4 * i + offset + more, "loss": 0.5}
            for i, task in enumerate(tasks)
        }

    steps = {"conflicts": 0.25, **{f"weight/{task}": 1 / len(tasks) for task in tasks}}
    history = [
        {
            "epoch": e,
            "score": 70.0 + e + offset,
            "train": scores(e),
            "validation": scores(e - 5),
            "steps": {**steps, **{f"sharpness/{task}": 0.1 * e for task in tasks}},
        }
        for e in (1, 2, 3)
    ]
    reported = {"score": 73.0 + offset, "validation": scores(-2), "test": scores(0)}
    return {
        "config": config,
        "tasks": list(tasks),
        "metrics": {t: {"accuracy": {"higher_is_better": True, "unit": "%"}} for t in tasks},
        "last": {"epoch": 3, **reported},
        "selected": {"epoch": 3, **reported},
        "history": history,
        "timing": {"step_ms": step_ms, "epoch_s": 0.5, "total_s": 1.5, "peak_memory_mb": 300.0},
        "environment": ENVIRONMENT,
    }


def write(file: Path, content: Any) -> None:
    """Writes a file: text as it is, anything else as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    file.write_bytes(text.encode("utf-8", errors="surrogatepass"))


def finished(out: Path, config: dict[str, Any], offset: float = 0.0, step_ms: float = 2.0) -> None:
    """Writes a finished run."""
    made = results(config, offset, step_ms)
    write(out / "config.json", config)
    write(out / "results.json", made)
    write(out / "log.jsonl", "".join(json.dumps(record) + "\n" for record in made["history"]))


def unfinished(out: Path, config: dict[str, Any], torn: bool = True) -> None:
    """Writes a run that is in its third epoch."""
    lines = [json.dumps(record) for record in results(config)["history"]]
    write(out / "config.json", config)
    write(out / "log.jsonl", "\n".join([*lines[:2], lines[2][: len(lines[2]) // 2] * torn]))


def failed(out: Path, config: dict[str, Any], error: str) -> None:
    """Writes a run that failed."""
    write(out / "config.json", config)
    write(out / "error.txt", f"Traceback (most recent call last):\n  ..\n{error}\n")


Arm = tuple[str, str, float | None]
ARMS: tuple[Arm, ...] = tuple(
    (method, sharpness, rho)
    for method in ("ls", "mgda")
    for sharpness, rhos in (("erm", [None]), ("gsam", [0.05, 0.2]), ("samo", [0.05, 0.2]))
    for rho in rhos
)


def comparison(out: Path, seeds: int = 2) -> list[dict[str, Any]]:
    """Writes a comparison that is finished: two methods with three presets and baselines.

    Returns:
        Its plan.
    """
    plan: list[dict[str, Any]] = []
    for seed in range(seeds):
        for task in TASKS:
            its = config(seed=seed, tasks=[task])
            plan.append({"path": f"stl/{task}/seed-{seed}", "baseline": True, "config": its})
            finished(out / plan[-1]["path"], its, 6.0 + seed)
        for i, (method, sharpness, rho) in enumerate(ARMS):
            its = config(method, sharpness, rho, seed)
            path = f"{method}/{sharpness}" + ("" if rho is None else f"/rho-{rho:g}")
            plan.append({"path": f"{path}/seed-{seed}", "baseline": False, "config": its})
            finished(out / plan[-1]["path"], its, 0.3 * i + 0.7 * seed, step_ms=2.0 + i)
    write(out / "compare.json", {"runs": plan})
    return plan
