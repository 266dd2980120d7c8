"""Recipes for fine-tuning Whisper: from a Kaldi data directory to a model that runs fast anywhere."""

__version__ = "0.1.0"
