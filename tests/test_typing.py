"""The package's types are complete, so that editors and type checkers infer nothing."""

import json
import os
import subprocess
import sys

import pytest
from support import extras, processes

UNTYPED_BASES = {"ana.integrations.joblib.AnaStoreBackend", "ana.integrations.joblib.ExecutorBackend"}
"""Classes that derive from joblib's, which has no types."""


@pytest.mark.once
@pytest.mark.slow
def test_types_are_complete():
    """Each public symbol of each public module has a type that every checker understands alike."""
    extras.require("basedpyright", "joblib")
    words = ["--verifytypes", "ana", "--ignoreexternal", "--outputjson"]
    # With --verifytypes it looks for packages in the first Python of the path, whatever --pythonpath says.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", *words],
        stdout=subprocess.PIPE,
        check=False,
        cwd=processes.ROOT,
        env=processes.environment(PATH=path),
        timeout=processes.PATIENCE_SECONDS,
    )
    symbols = [symbol for symbol in json.loads(done.stdout)["typeCompleteness"]["symbols"] if symbol["isExported"]]
    incomplete = {
        symbol["name"]: [problem["message"] for problem in symbol["diagnostics"]]
        for symbol in symbols
        if symbol["isTypeAmbiguous"] or not symbol["isTypeKnown"]
    }
    assert {name: why for name, why in incomplete.items() if name not in UNTYPED_BASES} == {}
    assert {symbol["name"] for symbol in symbols} >= {"ana.Storable", "ana.stores.base.Store", *UNTYPED_BASES}
