"""Recipes for fine-tuning Whisper: from a Kaldi data directory to a model that runs fast anywhere."""

import logging

__version__ = "0.1.0"

# Here, before anything imports it: it tells at every start that kernels for 4-bit models could be downloaded.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# It is imported wherever transformers saves a model, and warns of each machine without a GPU.
logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
