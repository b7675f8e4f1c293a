"""What ANA costs, compared with other tools: `python -m benchmarks --help`."""
