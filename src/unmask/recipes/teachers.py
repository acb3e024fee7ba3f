"""The teachers that recipes name."""

# Needs no connection; trained on ImageNet-1K with labels.
AT_HAND = "efficientnet_lite0"

# OpenAI's ViT-B/16 and ViT-L/14, as timm has them: what the last block hands on, or features in the space
# that CLIP shares with texts.
CLIP_BASE_INNER = "timm:vit_base_patch16_clip_quickgelu_224.openai@resid"
CLIP_BASE = "timm:vit_base_patch16_clip_quickgelu_224.openai@proj"
CLIP_LARGE = "timm:vit_large_patch14_clip_quickgelu_224.openai@proj"
