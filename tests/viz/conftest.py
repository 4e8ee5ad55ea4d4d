"""The panels' tests may use the core's stand-ins."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "merging"))
