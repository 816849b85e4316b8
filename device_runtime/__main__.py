"""`python -m device_runtime` is `tandem`."""

import sys

from device_runtime.cli import main

if __name__ == "__main__":
    sys.exit(main())
