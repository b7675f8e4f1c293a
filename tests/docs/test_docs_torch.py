"""The blocks of the documents that need torch. `conftest.py` leaves this out where torch is missing."""

import pytest
from support import code_blocks, processes

PAGES = [processes.ROOT / "README.md", *sorted(processes.ROOT.glob("docs/*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}:{block.line}")
    for page in PAGES
    for block in code_blocks.blocks(page)
    if "import torch" in block.text
]


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_with_torch_runs(block, short_folder):
    """Each is a script of its own."""
    reader = code_blocks.Reader(short_folder, {}, variables=code_blocks.variables(clone=False))
    reader.follow(block, [])
