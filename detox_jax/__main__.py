"""`python -m detox_jax VERB` is `detox-jax VERB`."""

import sys

from detox_jax.cli import main
from detox_jax.parallel import preemption

preemption.end_with_parent()
sys.exit(main())
