"""Names of the release before still work, and a warning says what they are now."""

import importlib
import sys

import numpy as np
import pytest
from generate import families

import instructblip_jax as ib


@pytest.mark.parametrize(
    ("former", "now", "names"),
    [
        ("recipe", "recipes.instructblip", ["paper", "finetune", "own_data"]),
        ("config", "run.config", ["complete"]),
    ],
)
def test_modules_that_configuration_files_import(former, now, names):
    sys.modules.pop(f"instructblip_jax.{former}", None)
    with pytest.warns(FutureWarning, match=rf"instructblip_jax\.{former} is now instructblip_jax\.{now}"):
        old = importlib.import_module(f"instructblip_jax.{former}")
    new = importlib.import_module(f"instructblip_jax.{now}")
    assert all(getattr(old, name) is getattr(new, name) for name in names)


def test_methods_of_a_model():
    model, batch = families.model("instructblip"), families.prompts("instructblip", 0)
    media = model.encode(batch)
    with pytest.warns(FutureWarning, match=r"now encode\(batch\)"):
        image = model.encode_image(batch["pixel_values"])
    np.testing.assert_array_equal(image, media["image"])
    want = ib.generate_ids(model, batch, media=media, max_new_tokens=5)
    with pytest.warns(FutureWarning, match=r"now media="):
        np.testing.assert_array_equal(ib.generate_ids(model, batch, image=image, max_new_tokens=5), want)
    with pytest.warns(FutureWarning, match=r"now prefill\(media, batch\)"):
        context = model.read(image, batch)
    assert context.keys() == model.prefill(media, batch).keys()
