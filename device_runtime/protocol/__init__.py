"""What both ends must agree on: numpy alone; no I/O, no clock, no hidden randomness."""
