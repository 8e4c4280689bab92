"""Your own pictures and texts: copy this file, and enter your model and datasets. docs/own_data.md explains the steps.

    instructblip prepare custom --source my_pictures --name own --out data
    instructblip train --config configs/own_data.py --workdir runs/own

All fields of the paper's configurations can be set here too: mesh, layout, int8, optim, text lengths.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.instructblip import own_data


def get_config() -> ConfigDict:
    """A public checkpoint (or a directory in the same format), fine-tuned on the dataset "own" in ./data."""
    config = own_data("Salesforce/instructblip-flan-t5-xl", sets=("own",))
    config.steps = 1000  # of 16 records each: a few passes over your records
    config.optim.learning_rate = 1e-5  # the paper's; use a higher one if your answers differ much from the model's
    config.data.directory = "data"
    config.data.instruction_lengths = (32, 64, 128)  # tokens; a batch is padded to the smallest length that fits
    config.data.response_lengths = (16, 64, 256)
    return config
