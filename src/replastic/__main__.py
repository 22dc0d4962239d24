"""`python -m replastic`: the command line."""

import sys

from replastic.cli import main

sys.exit(main())
