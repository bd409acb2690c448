"""Options and arguments that several commands share."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

TaskArgument = Annotated[
    str,
    typer.Argument(
        metavar="TASK", help="A built-in task (`laconic tasks`), NAME@MODEL, your own as module:attribute, or model.onnx with --data."
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder with the data of built-in tasks. Default: $LACONIC_DATA. Of an ONNX file: the task whose data it has, as module:attribute.",
        envvar="LACONIC_DATA",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")]
OutOption = Annotated[
    str | None,
    typer.Option(
        "--out",
        help="The run's folder, or a URL where it is mirrored: s3://bucket/run. An unfinished run in it is continued. [default: laconic-runs/TASK-TIME]",
    ),
]
FolderOption = Annotated[
    str | None, typer.Option("--out", help="The folder. What is unfinished in it is continued. [default: laconic-runs/TASK-TIME]")
]
WaitOption = Annotated[
    bool, typer.Option("--wait-quiet", help="Wait, a bounded while, until the machine does little else before anything is timed.")
]
StepsOption = Annotated[
    bool,
    typer.Option("--by-step", help="Measure the beginnings of the chosen recipe too, so that the report tells what each step gave."),
]
LimitOption = Annotated[
    str | None,
    typer.Option(
        "--time-limit",
        help="How long the command may try candidates, from its start on, e.g. 90s, 5m, 2h; the baseline is measured in any case. The best so far is "
        "delivered; the same command with --out RUN goes on with the rest.",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads of every runtime. [default: all cores, or fewer where these are faster]"),
]
TrialOption = Annotated[
    float | None, typer.Option("--trial-timeout", help="Seconds that the trial of your task's own code may take.  [default: 900]")
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="Where it runs, as the runtime calls it: cpu, cuda, tensorrt, openvino:GPU, …; `laconic doctor` lists what is here.",
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option(
        "--workers", min=1, help="Candidates that are built at once, ahead of their turns; none of them computes while something is timed."
    ),
]
DriverOption = Annotated[
    str,
    typer.Option(
        "--driver", help="Where: here, in processes of this machine; or ray, on the other machines of a Ray cluster (the extra ray)."
    ),
]
StudyOption = Annotated[
    str | None,
    typer.Option(
        "--study",
        metavar="URL",
        help="Share one Optuna study with other drivers, each on its machine: postgresql://USER@HOST/DATABASE (the extra postgres), or a journal file. "
        "None computes what another one does.",
    ),
]
StudyNameOption = Annotated[str | None, typer.Option("--study-name", help="The study's name there. [default: the task's]")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Examples per call when latency is measured.")]


def _with_mlflow(asked: bool) -> bool:
    """Refuse the option before any work where MLflow is not installed; nothing is imported."""
    if asked and importlib.util.find_spec("mlflow") is None:
        raise typer.BadParameter("this needs the package 'mlflow', which is not installed here. Install it: pip install 'laconic[mlflow]'")
    return asked


MlflowOption = Annotated[
    bool,
    typer.Option(
        "--mlflow",
        callback=_with_mlflow,
        help="Log parameters, metrics, artifact and page to MLflow, where MLFLOW_TRACKING_URI says; needs the extra mlflow.",
    ),
]
MeterOption = Annotated[
    Path | None,
    typer.Option(
        "--meter",
        help="CSV file that a meter of yours writes meanwhile: time and power_w, or energy_j. Energy is then read there, not from the machine's counters.",
    ),
]
PricesOption = Annotated[
    Path | None,
    typer.Option("--prices", help="TOML file with prices of machines, per_hour or per_kwh; money is then told, see docs/cost.md."),
]
PriceOption = Annotated[
    str | None,
    typer.Option("--price", metavar="NAME", help="Which of the prices; without --prices, of the dated examples in docs/cost.md."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.")]
TryOption = Annotated[
    str | None,
    typer.Option(
        "--try",
        metavar="LEVERS",
        help="Try only these levers, separated by commas: LEVER or LEVER=SETTING, e.g. prune=0.6,quantize; `laconic levers` lists them.",
    ),
]
WithoutOption = Annotated[
    str | None, typer.Option("--without", metavar="LEVERS", help="Leave these levers out: LEVER or LEVER=SETTING, e.g. torch.compile.")
]
