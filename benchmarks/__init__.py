"""What ANA costs, next to what else there is: `python -m benchmarks --help`."""
