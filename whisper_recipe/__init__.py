"""Recipes for fine-tuning Whisper: from a Kaldi data directory to a model that runs fast anywhere."""

import logging

__version__ = "0.1.0"

# Set before anything imports it: it reports at every start that kernels for 4-bit models could be downloaded.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# Imported whenever transformers saves a model; warns on machines without a GPU.
logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
