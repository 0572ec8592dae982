"""`python -m detox_jax VERB` is `detox-jax VERB`."""

import sys

from detox_jax.cli import main

sys.exit(main())
