"""What Laconic itself costs: `python -m benchmarks.overhead`.

A whole `optimize digits` in a process of its own, timed from outside, beside what the run's ledger says: seconds in which the model was trained,
captured, exported, checked, timed and tested, and the rest, which is Laconic's own. Then the weight of the door: `laconic --help`, and what
`import laconic` loads. Wanted: the run under 2 minutes, own cost at most 5 %, help within 0.5 s.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from laconic.measure.quiet import QUIET_SHARE, others_share

HEAVY = ("onnxruntime", "openvino", "sklearn", "transformers", "plotly", "torch")


def seconds(*argv: str) -> float:
    start = time.perf_counter()
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr}")
    return time.perf_counter() - start


def main() -> None:
    laconic = str(Path(sys.executable).with_name("laconic"))
    others = others_share()
    if others is None or others > QUIET_SHARE:
        print(
            "not known to be a quiet machine:" if others is None else f"no quiet machine, others use {100 * others:.0f} % of it:",
            "seconds below are too many",
        )
    help_s = [seconds(laconic, "--help") for _ in range(7)]
    print(f"laconic --help: median {statistics.median(help_s):.2f} s of {len(help_s)} (from {min(help_s):.2f} to {max(help_s):.2f})")
    code = f"import sys, laconic; print([m for m in {HEAVY!r} if m in sys.modules])"
    print(
        "import laconic loads of",
        ", ".join(HEAVY),
        "→",
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip(),
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        wall = seconds(laconic, "optimize", "digits", "--max-drop", "0.5", "--time-limit", "5m", "--out", str(out), "--quiet")
        found = json.loads((out / "result.json").read_text(encoding="utf-8"))
    spent = found["spent"]
    print(found["verdict"])
    print(f"optimize digits: {wall:.1f} s from outside, of which the ledger saw {spent['total']:.1f} s")
    for part in sorted(spent, key=spent.__getitem__, reverse=True):
        print(f"  {part:<8} {spent[part]:7.2f} s  {100 * spent[part] / spent['total']:5.1f} %")
    unseen = wall - spent["total"]
    print(f"own cost: {spent['own']:.2f} s of {spent['total']:.1f} s = {100 * spent['own'] / spent['total']:.1f} %")
    more = spent["own"] + unseen
    print("with what the ledger did not see (starting Python, importing PyTorch, loading the data, writing the page):", end=" ")
    print(f"{more:.2f} s of {wall:.1f} s = {100 * more / wall:.1f} %")


if __name__ == "__main__":
    main()
