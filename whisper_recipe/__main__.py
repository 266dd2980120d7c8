"""Make `python -m whisper_recipe` equivalent to `whisper-recipe`."""

import sys

from whisper_recipe.cli import main

if __name__ == "__main__":
    sys.exit(main())
