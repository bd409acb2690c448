"""A finished run, logged to MLflow: parameters, metrics, the artifact and the page; and each of its candidates as a run under it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from laconic.core.errors import need
from laconic.report.units import finite

_LONGEST = 500  # letters of a parameter that every MLflow server takes


def log_to_mlflow(folder: Path, result: Mapping[str, Any]) -> str:
    """Log a run where MLflow is told to (`MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME`; MLflow's own defaults without them). Returns MLflow's run id.

    Parameters are the task, the budget and how the chosen artifact was made; metrics its quantities, those of the baseline behind ``baseline.``; the artifact's
    folder, the page and `result.json` are stored with it. Each candidate is a run of its own under it: its status and reasons as tags, its steps and where it
    runs as parameters, its quantities as metrics.

    Args:
        folder: of the run.
        result: the content of its result.json.

    Raises:
        MissingExtra: MLflow is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would send statistics of use
    mlflow = need("mlflow", extra="mlflow")
    key = result.get("best") or result.get("nearest")
    chosen = next((one for one in result.get("candidates") or () if one["key"] == key), None)
    with mlflow.start_run(run_name=Path(folder).name) as run:
        mlflow.set_tags(
            {
                "laconic.version": str(result.get("laconic")),
                "laconic.met": str(bool(result.get("met"))),
                "laconic.verdict": result["verdict"],
            }
        )
        mlflow.log_params(params(result, chosen))
        mlflow.log_metrics(dict(metrics(result, chosen)))
        for file in (folder / "result.json", folder / "report.html"):
            if file.exists():
                mlflow.log_artifact(str(file))
        if result.get("best") and chosen is not None and chosen.get("artifact"):
            mlflow.log_artifacts(str(folder / chosen["artifact"]), "artifact")
        for record in result.get("candidates") or ():
            _child(mlflow, run.info, record)
    return str(run.info.run_id)


def params(result: Mapping[str, Any], chosen: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what was given and what was chosen, as text."""
    task = result.get("task") or {}
    values = {
        "task": task.get("ref") or task.get("name"),
        "batch": result.get("batch"),
        "command": (result.get("reproduce") or {}).get("command"),
    }
    values |= {f"budget.{name}": value for name, value in (result.get("budget") or {}).items()}
    if chosen is not None:
        values |= {"chosen": chosen.get("title"), "recipe": (result.get("reproduce") or {}).get("recipe_yaml")}
        values |= {f"deploy.{name}": value for name, value in ((chosen.get("recipe") or {}).get("deploy") or {}).items()}
    return {name: str(value)[:_LONGEST] for name, value in values.items() if value not in (None, "")}


def _child(mlflow: Any, parent: Any, record: Mapping[str, Any]) -> None:
    """Log a candidate as a run under its own, in few calls: a server may be far."""
    client = mlflow.MlflowClient()
    recipe, reasons = record.get("recipe") or {}, record.get("reasons") or ()
    tags = {
        "mlflow.parentRunId": parent.run_id,
        "laconic.key": str(record.get("key") or ""),
        "laconic.status": str(record.get("status") or ""),
        "laconic.why": "; ".join(str(reason.get("text")) for reason in reasons)[:_LONGEST],
    }
    made = client.create_run(parent.experiment_id, run_name=str(record.get("title") or record.get("key")), tags=tags)
    given = {"steps": json.dumps(recipe.get("steps") or [])} | {
        f"deploy.{name}": value for name, value in (recipe.get("deploy") or {}).items()
    }
    at_ms = int(time.time() * 1000)
    client.log_batch(
        made.info.run_id,
        metrics=[mlflow.entities.Metric(name, value, at_ms, 0) for name, value in _figures(record)],
        params=[mlflow.entities.Param(name, str(value)[:_LONGEST]) for name, value in given.items() if value not in (None, "")],
    )
    client.set_terminated(made.info.run_id, "FAILED" if record.get("status") == "failed" else "FINISHED")


def _figures(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield every quantity of a record that has a value, with the ends of its interval, and the seconds that it took."""
    for name, measured in (record.get("measured") or {}).items():
        for suffix, entry in (("", "value"), (".low", "low"), (".high", "high")):
            value = finite(measured.get(entry))
            if value is not None:
                yield f"{name}{suffix}", value
    if seconds := finite(record.get("seconds")):
        yield "seconds", seconds


def metrics(result: Mapping[str, Any], chosen: Mapping[str, Any] | None) -> Iterator[tuple[str, float]]:
    """Yield every quantity that has a value, with the ends of its interval, and seconds by part of the run."""
    for before, record in (("", chosen or {}), ("baseline.", result.get("baseline") or {})):
        for name, value in _figures({"measured": record.get("measured")}):
            yield f"{before}{name}", value
    for part, seconds in (result.get("spent") or {}).items():
        yield f"spent_s.{part}", float(seconds)
