"""What each small operation costs, in the processor's instructions: ratios to a plain program, against a baseline."""

import pytest
from support import instructions, memory

NAME = "ana_load, cold"


def counted(**options):
    """Count, where that is possible."""
    if (problem := instructions.missing()) is not None:
        pytest.skip(problem)
    with memory.folder() as folder:
        return instructions.measure(folder, **options)


@pytest.fixture(scope="module")
def found():
    """What the operations cost in this tree."""
    return counted()


@pytest.fixture
def recorded():
    """The baseline for this build of Python."""
    baseline = instructions.baseline()
    assert baseline is not None, f"no baseline for Python {instructions.BUILD}: {instructions.RECORD}"
    return baseline


@pytest.mark.slow
def test_small_operations_are_within_their_baselines(found, recorded, capsys):
    """No operation costs more than a twentieth above what was recorded; of a much cheaper one, the run tells."""
    assert found.keys() == recorded.keys()
    with capsys.disabled():
        print(*instructions.hints(found, recorded), sep="\n", end="")
    assert instructions.complaints(found, recorded) == []


@pytest.mark.slow
def test_needless_work_is_found(found):
    """Some JSON with each store is a complaint about stores, and about nothing else."""
    recorded = {name: finding.ratio for name, finding in found.items()}
    slower = counted(extra="; __import__('json').dumps(list(range(400)))")
    (complaint,) = instructions.complaints(slower, recorded)
    assert complaint.startswith("make_uuid of a new small state:")


def test_a_complaint_says_what_to_do():
    """It names the operation, what was found, the baseline, and the command that records another; it has a limit."""
    within, beyond = instructions.Finding(3140, 1000), instructions.Finding(3160, 1000)
    assert instructions.complaints({NAME: within}, {NAME: 3.0}) == []
    (complaint,) = instructions.complaints({NAME: beyond}, {NAME: 3.0})
    for word in (NAME, "3.160", "3.000", "+5.3%", instructions.RECORD):
        assert word in complaint


def test_what_is_much_cheaper_is_a_hint():
    """Half of the baseline is no complaint, but said; a little less than the baseline is not."""
    half, little = instructions.Finding(1500, 1000), instructions.Finding(2900, 1000)
    assert instructions.complaints({NAME: half}, {NAME: 3.0}) == []
    (hint,) = instructions.hints({NAME: half}, {NAME: 3.0})
    assert NAME in hint
    assert instructions.RECORD in hint
    assert instructions.hints({NAME: little}, {NAME: 3.0}) == []
