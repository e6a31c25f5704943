"""The command line, independent of the files in the working folder.

`python -m` puts the working folder before the installed packages, so that a `tasks.py` or `flows.py` there would be
imported in place of ours. It is therefore removed from the path, unless the packages are in the working folder itself
(a checkout that is not installed).
"""

import os
import sys
from pathlib import Path

here = os.path.realpath(Path.cwd())
if os.path.realpath(Path(__file__).parents[1]) != here:
    sys.path[:] = [entry for entry in sys.path if entry and os.path.realpath(entry) != here]

from flows.start import main  # noqa: E402  (the path comes first)

main()
