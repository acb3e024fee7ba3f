"""Shapes are checked at run time in the tests: every annotated tensor of the parts and the methods."""

import os
import signal

# A shell starts programs in the background with Ctrl-C ignored; the tests of it need it as it is elsewhere.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads would cost more than they bring

from jaxtyping import install_import_hook  # noqa: E402 - torch reads the environment when it is imported

CHECKED = ["unmask.masking", "unmask.patches", "unmask.decoders", "unmask.encoders", "unmask.methods"]
CHECKED += ["unmask.heads", "unmask.targets", "unmask.colours", "unmask.tokenizers", "unmask.prompting"]

hook = install_import_hook(CHECKED, "beartype.beartype")
