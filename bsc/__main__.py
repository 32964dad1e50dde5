"""`python -m bsc`: the command line without the installed script."""

import sys

from bsc.cli import main

sys.exit(main())
