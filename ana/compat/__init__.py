"""Support for programs written for the original ANA."""
