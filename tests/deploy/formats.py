"""The formats that can be written and run here: those of extras only where these are installed."""

from __future__ import annotations

from laconic.deploy.export import FORMATS
from laconic.deploy.runtime import default_for, runtime

WRITABLE = {kind: row for kind, row in FORMATS.items() if runtime(default_for(kind)).available() is None}
