"""What a cache of a teacher's answers saves: the cost of an image in the first and in later epochs, on a CPU.

    python benchmarks/cache.py --data clothing160/train
    python benchmarks/cache.py --data DIR --images 64 method.teacher=random:vit_base_patch16_224

The method's recipe for the data is trained for two epochs of one fixed crop an image, on one thread, with a
cache that is deleted afterwards: of the first epoch's images the teacher is asked, of the second's it is not.
What is counted is processor time, reading and writing of images and answers included, so that other programs
hardly change it.
"""

import argparse
import itertools
import random
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from unmask.data import Subset, open_source
from unmask.engine.machine import Machine
from unmask.engine.pretrain import update
from unmask.engine.setup import prepare
from unmask.engine.space import disk_use
from unmask.options import key_values
from unmask.recipes.resolve import resolve_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder or archive of images")
    parser.add_argument("--method", default="mask_distill")
    parser.add_argument("--images", type=int, default=256, help="of --data, drawn at random")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = open_source(options.data)
    drawn = random.Random(0).sample(range(len(source)), min(options.images, len(source)))
    recipe = resolve_recipe(
        options.method,
        images=len(drawn),
        batch_size=options.batch_size,
        overrides={"data.crops": 1, **key_values(options.settings)},
    )
    table = Table("epoch", "teacher not asked, %", "CPU ms an image", "images/s of one core")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        machine = Machine(
            device="cpu", precision="auto", workers=0, compile=False, checkpointing=False, cache=cache
        )
        job = prepare(recipe, Subset(source, sorted(drawn)), Path(folder), machine)
        assert job.caches is not None
        job.model.train()
        warm = next(job.loader.batches())
        update(job, warm)  # without marks: the teacher is asked, and nothing kept
        with job.caches as caches:
            batches = enumerate(itertools.islice(job.loader.batches(), 2 * len(job.loader)))
            for epoch in (1, 2):
                begun = time.process_time()
                for step, batch in itertools.islice(batches, len(job.loader)):
                    update(job, batch, marks=batch.marks, step=step)
                cost = (time.process_time() - begun) / len(job.loader) / options.batch_size
                share = 100 * caches.rate()["cached"]
                table.add_row(str(epoch), f"{share:.0f}", f"{1000 * cost:.1f}", f"{1 / cost:.1f}")
        size = disk_use(cache)
    Console().print(table, f"{job.machine_name}, {size / len(drawn) / 1000:.0f} kB an image on disk")


if __name__ == "__main__":
    main()
