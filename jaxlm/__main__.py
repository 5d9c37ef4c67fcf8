"""`python -m jaxlm`."""

import sys

from jaxlm.cli.programs import main

sys.exit(main())
