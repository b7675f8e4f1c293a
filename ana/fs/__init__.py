"""System calls on files. Knows nothing of what they hold."""
