"""The version of the package, as it was installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("laconic")
except PackageNotFoundError:  # run from a checkout that is not installed
    VERSION = "0.0.0"
