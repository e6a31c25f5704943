"""The command line, whatever lies in the working folder.

`python -m` puts the working folder before the installed packages, and somebody's own `tasks.py` or `flows.py` there
would be taken for ours. From a checkout that is not installed, the working folder is where ours are, and stays.
"""

import os
import sys
from pathlib import Path

here = os.path.realpath(Path.cwd())
if os.path.realpath(Path(__file__).parents[1]) != here:
    sys.path[:] = [entry for entry in sys.path if entry and os.path.realpath(entry) != here]

from flows.start import main  # noqa: E402  (the path comes first)

main()
