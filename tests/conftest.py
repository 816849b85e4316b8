"""Settings that hold for all tests."""

from hypothesis import settings

# The same examples on every run, and no time limit for one: a busy machine is no failure.
settings.register_profile("tandem", derandomize=True, deadline=None)
settings.load_profile("tandem")
