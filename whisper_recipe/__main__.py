"""Lets `python -m whisper_recipe` do what the `whisper-recipe` script does."""

import sys

from whisper_recipe.cli import main

if __name__ == "__main__":
    sys.exit(main())
