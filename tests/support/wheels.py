"""Packages of the tests that setup.cfg leaves out on a Python or a machine that they have no wheel for."""

import configparser
import re
from collections.abc import Mapping
from pathlib import Path

from packaging.requirements import Requirement

import ana

SETUP = Path(ana.__file__).parents[1] / "setup.cfg"
MISSING = re.compile(r"Skipped: no ([\w-]+): pip install ")
"""How a test says that it is skipped for want of a package."""


def left_out(python: Mapping[str, str] | None = None) -> set[str]:
    """Return the packages that are not asked for here, or on another Python (`{"python_version": "3.15"}`)."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(SETUP, encoding="utf-8")
    tables = (config["options"]["install_requires"], *config["options.extras_require"].values())
    requirements = [Requirement(line) for table in tables for line in table.split("\n") if line]
    return {wanted.name for wanted in requirements if wanted.marker and not wanted.marker.evaluate(python)}


def are_missing(reason: str, python: Mapping[str, str] | None = None) -> bool:
    """Return whether a test was skipped for a package that has no wheel here, or on another Python."""
    found = MISSING.match(reason)
    return found is not None and found[1] in left_out(python)
