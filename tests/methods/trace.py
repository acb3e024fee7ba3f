"""Trace methods with encoders ("mae-vit", ...) as one graph each; prints a JSON object of failures.

Runs in a process of its own: the shape checks of the other tests wrap every function and would be traced too.
"""

import json
import sys

import torch

from tests.tiny import PAIRS, tiny_method, views_of


def trace(name: str, encoder: str) -> str:
    """What went wrong, or nothing."""
    torch._dynamo.reset()
    method, images = tiny_method(name, encoder), torch.randn(2, 3, 64, 64)
    views = views_of(method, images)
    compiled = torch.compile(method, backend="eager", fullgraph=True)
    try:
        losses = []
        for draw in (compiled, method):  # the mask is drawn inside the graph
            torch.manual_seed(0)
            losses.append(draw(**views)["loss"])
        torch.testing.assert_close(*losses)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:2000]
    return ""


if __name__ == "__main__":
    pairs = {f"{name}-{encoder}": (name, encoder) for name, encoder in PAIRS}
    print(json.dumps({label: trace(*pairs[label]) for label in sys.argv[1:]}))
