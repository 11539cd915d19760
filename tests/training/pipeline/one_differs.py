"""A program for tests: the command line, with further arguments for the second of two processes."""

import os
import sys

from animora_training.__main__ import main

if __name__ == "__main__":
    more = sys.argv.pop(1).split()
    if os.environ["RANK"] == "1":
        sys.argv += more
    main()
