"""Your own pictures and texts: copy this file, name your model and your sets. docs/own_data.md walks through it.

    instructblip prepare custom --source my_pictures --name own --out data
    instructblip train --config configs/own_data.py --workdir runs/own

All fields of the paper's configurations can be set here too: mesh, layout, int8, optim, text lengths.
"""

from ml_collections import ConfigDict

from instructblip_jax.recipes.instructblip import own_data


def get_config() -> ConfigDict:
    """A public checkpoint (or a directory in the same format), tuned on the set "own" under ./data."""
    config = own_data("Salesforce/instructblip-flan-t5-xl", sets=("own",))
    config.steps = 1000  # of 16 records each: a few passes over your records
    config.optim.learning_rate = 1e-5  # the paper's; raise it if your answers are unlike those of the model
    config.data.directory = "data"
    config.data.instruction_lengths = (32, 64, 128)  # tokens; a batch takes the smallest length that fits
    config.data.response_lengths = (16, 64, 256)
    return config
