"""Memory of a process, as the system tells it."""

from __future__ import annotations

from pathlib import Path


def memory_of(pid: int) -> dict[str, int]:
    """Return bytes of memory of a process: `rss_bytes` now and `peak_bytes` at its highest; empty where there is no /proc."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return {}
    rows = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    result = {name: int(rows[row].split()[0]) * 1024 for name, row in (("rss_bytes", "VmRSS"), ("peak_bytes", "VmHWM")) if row in rows}
    # the kernel brings the peak up to date now and then, so it may lag a little behind
    return {name: max(result.values()) if name == "peak_bytes" else value for name, value in result.items()}
