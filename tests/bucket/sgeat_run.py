"""Runs `sgeat` in its smallest sizes, with all that it writes below a root.

python tests/bucket/sgeat_run.py ROOT GIN_FILE CONSTANTS_OF_THE_DEMO_CORPUS_AS_JSON
"""

import json
import sys

from detox_jax import cli
from tasks import demo_corpus

if __name__ == "__main__":
    root, gin_file, constants = sys.argv[1:]
    vars(demo_corpus).update(json.loads(constants))
    sys.exit(cli.main(["sgeat", f"--gin_file={gin_file}", f"--gin.OUTPUT_DIR={root}"]))
