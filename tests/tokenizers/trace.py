"""Trace every tokenizer as one graph; prints a JSON object of failures.

Runs in a process of its own: the shape checks of the other tests wrap every function and would be traced too.
"""

import copy
import json

import torch

from tests.tokenizers.tiny import OPTIONS, pictures, tiny_tokenizer, views_of


def trace(name: str) -> str:
    """What went wrong, or nothing."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    tokenizer, images = tiny_tokenizer(name), pictures()
    views, states = views_of(tokenizer, images), []
    compiled = torch.compile(copy.deepcopy(tokenizer), backend="eager", fullgraph=True)
    try:
        for model in (compiled, tokenizer):
            losses = []
            for step in (1, 2):
                torch.manual_seed(step)
                losses.append(model(**views))
                model.after_step(step, 2)
            states.append((losses, [*model.state_dict().values()]))
        torch.testing.assert_close(*states)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:2000]
    return ""


if __name__ == "__main__":
    print(json.dumps({name: trace(name) for name in OPTIONS}))
