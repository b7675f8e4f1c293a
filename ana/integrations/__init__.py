"""Helpers for engines that want one. Nothing else in ana imports them; each imports its engine."""
