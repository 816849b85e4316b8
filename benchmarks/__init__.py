"""Measurements and the demo; they run from a checkout."""
