"""What processes did with their stores: the sums over a job. `ana.Stats` and `dl.stats()` are those of one process.

Not imported with `ana`: dataclasses take longer to import than all of it.
"""

from ana.layers.statistics import Stats, Summary, summarize

__all__ = ["Stats", "Summary", "summarize"]
