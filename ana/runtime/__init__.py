"""What this process may use, and what it counts."""
