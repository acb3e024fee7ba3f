"""Shapes are checked at run time in the tests: every annotated tensor of the parts and the methods."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads would cost more than they bring

from jaxtyping import install_import_hook

CHECKED = ["unmask.masking", "unmask.patches", "unmask.decoders", "unmask.encoders", "unmask.methods"]

hook = install_import_hook(CHECKED, "beartype.beartype")
