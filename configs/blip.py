"""BLIP as its paper trained it (arXiv 2201.12086): configs/blip.py:VARIANT, one of `recipes.blip.TASKS`.

"pretraining" starts from DeiT-B/16 ("pretraining_large" from an ImageNet-21k ViT-L/16) and BERT-base. The tasks start
from a pre-trained model, your own export or the authors':

    instructblip assemble blip --vision facebook/deit-base-patch16-224 --bert google-bert/bert-base-uncased \\
        --out blip-new
    instructblip convert --original model_base_14M.pth --bert google-bert/bert-base-uncased --out blip-14m
    instructblip assemble blip --model blip-14m --task retrieval --out blip-retrieval

Make blip-captioning (--task captioning), blip-vqa (question_answering) and blip-nlvr2 (reasoning) in the same way; see
docs/blip.md.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.blip import paper


def get_config(variant: str = "pretraining") -> ConfigDict:
    """Pre-training, or a task."""
    return paper(variant)
