"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TaskArgument = Annotated[
    str, typer.Argument(metavar="TASK", help="A built-in task (`laconic tasks`), NAME@MODEL, or your own as module:attribute.")
]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder with the data of built-in tasks. Default: $LACONIC_DATA.", envvar="LACONIC_DATA")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="The run's folder. An unfinished run in it is continued. [default: laconic-runs/TASK-TIME]")
]
DropOption = Annotated[
    str | None,
    typer.Option(
        "--max-drop",
        metavar="NUMBER",
        help="What may be lost: points of a percentage, else in the metric's own unit; or any.  [default: 0.5 points of a percentage]",
    ),
]
SpeedOption = Annotated[float | None, typer.Option("--min-speedup", help="Times faster than PyTorch eager, at the least.")]
LatencyOption = Annotated[float | None, typer.Option("--max-latency", help="Median latency in ms, at the most.")]
SizeOption = Annotated[float | None, typer.Option("--max-size", help="Size of the file in MB (10^6 bytes), at the most.")]
ObjectiveOption = Annotated[
    str | None, typer.Option("--objective", help="What is to be best: latency, size or memory.  [default: latency]")
]
ConfidentOption = Annotated[
    bool, typer.Option("--confident", help="Each limit must hold at the bad end of its figure's 95 % interval, not only as measured.")
]
WaitOption = Annotated[
    bool, typer.Option("--wait-quiet", help="Wait, a bounded while, until the machine does little else before anything is timed.")
]
LimitOption = Annotated[str | None, typer.Option("--time-limit", help="Start no further candidate after this long, e.g. 90s, 5m, 2h.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Threads of every runtime. [default: all cores]")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Examples per call when latency is measured.")]
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
