"""Time artifacts that were sent here, and tell what is measured: `python -m laconic.run.afar PLAN.json DESCRIPTOR`, started by `steward`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from laconic.core.files import read_json
from laconic.deploy.portable import Portable
from laconic.measure.energy import Metering
from laconic.run.hardware import Timing, measure


def main() -> None:
    """Write events as lines of JSON to the descriptor. Artifacts lie in folders beside the plan, by their place in it."""
    plan = Path(sys.argv[1])
    told = read_json(plan)
    items = {
        one["name"]: Portable.of(plan.parent / "artifacts" / str(index), trust=one["trusted"]).with_target(**one["target"])
        for index, one in enumerate(told["items"])
    }
    plain = told["timing"]
    metering = None if plain["metering"] is None else Metering(**plain["metering"])
    timing = Timing(**{**plain, "batches": tuple(plain["batches"]), "metering": metering})
    with os.fdopen(int(sys.argv[2]), "w", encoding="utf-8") as out:
        for event in measure(items, timing, told["known"]):
            out.write(json.dumps(event) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
