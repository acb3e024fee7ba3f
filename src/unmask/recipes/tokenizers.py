"""Runs of tokenizers: on one's own images, and as published."""

from typing import Any

from unmask.recipes.base import Choice, Data, Optim, Schedule, TokenizerRecipe
from unmask.recipes.teachers import AT_HAND, CLIP_BASE


def dvae() -> TokenizerRecipe:
    """DALL-E's dVAE on one's own images: 14 x 14 codes, for students of 224 pixels in patches of 16.

    Source: BEiT gives the dVAE images of 112 pixels. What differs from DALL-E's: half its width, and steps
        and learning rate of a run on much less data; its own are recalled and unverified.
    """
    return TokenizerRecipe(
        name="dvae",
        tokenizer=Choice(name="dvae", width=128, vocabulary=8192),
        data=Data(image_size=(112, 112), crop_scale=(0.2, 1.0), interpolation="lanczos"),
        optim=Optim(batch_size=128, lr=5e-4, betas=(0.9, 0.95), weight_decay=1e-4, clip=1.0),
        schedule=Schedule(epochs=100, warmup_epochs=5),
    )


def small_dvae() -> TokenizerRecipe:
    """A dVAE on a few thousand images of one's own, also without a GPU: 8 x 8 codes of 64 pixels.

    Source: measured, see docs/tokenizers.md. What differs from `dvae`: a narrow network, one block a
        resolution, 512 codes; even use over a batch is asked for instead of even chances at every place, from
        logits that differ between places from the first step on, without which a few codes win everywhere.
    """
    return TokenizerRecipe(
        name="dvae",
        tokenizer=Choice(
            name="dvae",
            width=16,
            blocks=1,
            decoder_dim=64,
            vocabulary=512,
            kl_weight=0.0,
            evenness_weight=20.0,
            start_spread=2.0,
        ),
        data=Data(image_size=(64, 64), crop_scale=(0.4, 1.0), interpolation="lanczos"),
        optim=Optim(batch_size=32, lr=3e-3, betas=(0.9, 0.95), weight_decay=1e-4, clip=1.0),
        schedule=Schedule(epochs=100, warmup_epochs=5),
    )


def peco() -> TokenizerRecipe:
    """PeCo's tokenizer on one's own images: 14 x 14 codes of 224 pixels.

    Source: the run below. What differs: half its width, the network that needs no connection for the
        perceptual loss, and a higher learning rate for runs on less data.
    """
    return TokenizerRecipe(
        name="peco",
        tokenizer=Choice(name="peco", teacher=AT_HAND, width=64),
        data=Data(image_size=(224, 224), crop_scale=(0.2, 1.0), interpolation="bicubic"),
        optim=Optim(batch_size=128, lr=2e-4, betas=(0.9, 0.95), weight_decay=1e-4, clip=1.0),
        schedule=Schedule(epochs=100, warmup_epochs=5),
    )


def small_peco() -> TokenizerRecipe:
    """PeCo's tokenizer on a few thousand images of one's own, also without a GPU: 8 x 8 codes of 64 pixels.

    Source: our choice, not searched. What differs from `peco`: four narrow levels of one block each, 512
        codes, whose averages follow faster.
    """
    return TokenizerRecipe(
        name="peco",
        tokenizer=Choice(
            name="peco",
            teacher=AT_HAND,
            width=32,
            factors=(1, 1, 2, 2),
            blocks=1,
            code_dim=32,
            vocabulary=512,
            decay=0.95,
        ),
        data=Data(image_size=(64, 64), crop_scale=(0.4, 1.0), interpolation="bicubic"),
        optim=Optim(batch_size=32, lr=1e-3, betas=(0.9, 0.95), weight_decay=1e-4, clip=1.0),
        schedule=Schedule(epochs=100, warmup_epochs=5),
    )


def peco_100ep() -> TokenizerRecipe:
    """PeCo's tokenizer of 8192 codes with a self-supervised ViT-B as the judge of likeness.

    Source: abstract of the paper, and what others report of it; epochs, batch, learning rate and warm-up are
        recalled, unverified. No code was published. BEiT v2 names MoCo v3 as the judge, which timm does not
        have: DINO stands in (our choice).
    Command: unmask tokenizer peco_100ep --data imagenet/train --out runs/peco
    Published: PeCo on its codes 84.1 % fine-tuned after 300 epochs, 84.5 % after 800 (ViT-B).
    Cost: not published.
    Reproduced by us: not yet.
    """
    return TokenizerRecipe(
        name="peco_100ep",
        tokenizer=Choice(name="peco", teacher="timm:vit_base_patch16_224.dino", vocabulary=8192),
        data=Data(image_size=(224, 224), crop_scale=(0.08, 1.0), interpolation="bicubic"),
        optim=Optim(batch_size=128, lr=5e-5, betas=(0.9, 0.95), weight_decay=0.0),
        schedule=Schedule(epochs=100, warmup_epochs=10),
    )


def vqkd() -> TokenizerRecipe:
    """VQ-KD on one's own images: 14 x 14 codes of 224 pixels.

    Source: the published runs below. What differs: a ViT-S, a decoder of one block, which keeps more of the
        codes in use, the teacher that needs no connection, and a higher learning rate for runs on less data.
    """
    return TokenizerRecipe(
        name="vqkd",
        tokenizer=Choice(name="vqkd", teacher=AT_HAND, dim=384, heads=6, decoder_depth=1, vocabulary=8192),
        data=Data(image_size=(224, 224), crop_scale=(0.08, 1.0), interpolation="bicubic"),
        optim=Optim(batch_size=256, base_lr=1e-4, lr_per=128, betas=(0.9, 0.99), weight_decay=1e-4),
        schedule=Schedule(epochs=100, warmup_epochs=5, final_lr=0.05),
    )


def small_vqkd() -> TokenizerRecipe:
    """VQ-KD on a few thousand images of one's own, also without a GPU: 8 x 8 codes of 64 pixels.

    Source: our choice, not searched. What differs from `vqkd`: a narrow ViT of four blocks, 512 codes, whose
        averages follow faster; of 8192 most die on small data, as users of the official code report.
    """
    return TokenizerRecipe(
        name="vqkd",
        tokenizer=Choice(
            name="vqkd",
            teacher=AT_HAND,
            patch_size=8,
            dim=192,
            depth=4,
            heads=3,
            decoder_depth=1,
            vocabulary=512,
            decay=0.95,
        ),
        data=Data(image_size=(64, 64), crop_scale=(0.4, 1.0), interpolation="bicubic"),
        optim=Optim(batch_size=64, lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4, clip=1.0),
        schedule=Schedule(epochs=100, warmup_epochs=5, final_lr=0.05),
    )


def _published_vqkd(name: str, **tokenizer: Any) -> TokenizerRecipe:
    return TokenizerRecipe(
        name=name,
        tokenizer=Choice(name="vqkd", vocabulary=8192, code_dim=32, **tokenizer),
        data=Data(image_size=(224, 224), crop_scale=(0.08, 1.0), interpolation="bicubic"),
        optim=Optim(
            batch_size=512,
            base_lr=5e-5,
            lr_per=128,
            betas=(0.9, 0.99),
            weight_decay=1e-4,
            no_decay=("pos_embed", "cls_token"),
        ),
        schedule=Schedule(epochs=100, warmup_epochs=10, warmup_lr=0.0, final_lr=0.05),  # 2e-4 to 1e-5
    )


def vqkd_base_clip_100ep() -> TokenizerRecipe:
    """VQ-KD, ViT-B/16, CLIP as teacher, decoder of three blocks: the tokenizer of the published BEiT v2.

    Source: the official code's documentation of VQ-KD.
    Command: unmask tokenizer vqkd_base_clip_100ep --data imagenet/train --out runs/vqkd
    Published: 97 % of the 8192 codes in use on the validation images.
    Cost: not published.
    Reproduced by us: not yet.
    """
    return _published_vqkd("vqkd_base_clip_100ep", teacher=CLIP_BASE, decoder_depth=3)


def vqkd_base_clip_1layer_100ep() -> TokenizerRecipe:
    """VQ-KD, ViT-B/16, CLIP as teacher, decoder of one block.

    Source: the official code's documentation of VQ-KD.
    Command: unmask tokenizer vqkd_base_clip_1layer_100ep --data imagenet/train --out runs/vqkd
    Published: 100 % of the 8192 codes in use on the validation images.
    Cost: not published.
    Reproduced by us: not yet.
    """
    return _published_vqkd("vqkd_base_clip_1layer_100ep", teacher=CLIP_BASE, decoder_depth=1)


def vqkd_base_dino_100ep() -> TokenizerRecipe:
    """VQ-KD, ViT-B/16, DINO as teacher, decoder of one block.

    Source: the official code's documentation of VQ-KD.
    Command: unmask tokenizer vqkd_base_dino_100ep --data imagenet/train --out runs/vqkd
    Published: 100 % of the 8192 codes in use; BEiT v2 on its codes 84.4 % fine-tuned, ADE20K 49.2 mIoU.
    Cost: not published.
    Reproduced by us: not yet.
    """
    return _published_vqkd("vqkd_base_dino_100ep", teacher="timm:vit_base_patch16_224.dino", decoder_depth=1)
