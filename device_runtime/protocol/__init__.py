"""What both ends must agree on: numpy and zstandard; no I/O, no clock, no hidden randomness."""
