"""Shapes are checked at run time in the tests: every annotated tensor of the parts and the methods."""

from jaxtyping import install_import_hook

CHECKED = ["unmask.masking", "unmask.patches", "unmask.decoders", "unmask.encoders", "unmask.methods"]

hook = install_import_hook(CHECKED, "beartype.beartype")
