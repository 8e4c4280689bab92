"""ALBEF as its paper trained it (arXiv 2107.07651): configs/albef.py:VARIANT, one of `recipes.albef.TASKS`.

"pretraining" starts from DeiT-B/16 and BERT-base. The tasks start from a pre-trained model, your own export or the
authors':

    instructblip assemble albef --vision facebook/deit-base-patch16-224 --bert google-bert/bert-base-uncased \\
        --out albef-new
    instructblip convert --original ALBEF.pth --bert google-bert/bert-base-uncased --out albef-14m
    instructblip assemble albef --model albef-14m --task retrieval --out albef-retrieval

Make albef-vqa (--task question_answering), albef-nlvr2 (reasoning) and albef-snli-ve (entailment) in the same way;
see docs/albef.md.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.albef import paper


def get_config(variant: str = "pretraining") -> ConfigDict:
    """Pre-training, or a task."""
    return paper(variant)
