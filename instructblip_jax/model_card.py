"""The model card of an exported directory: README.md with the front matter that the Hugging Face hub reads."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.repocard import metadata_load
from yaml import YAMLError

from instructblip_jax import hub
from instructblip_jax.run.config import RunConfig

TASK = "image-text-to-text"
UNSTATED = {"license": "other", "license_name": "license-of-the-base-model"}
"""The licence fields of a card if the base model names no licence: "other" is the hub's value for a custom licence."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run that an export contains.

    Attributes:
      config: the run's configuration.
      step: the exported step.
      shapes: Hugging Face name -> shape of each trained tensor.
      evaluation: the content of W/evaluation.json, or None.
    """

    config: RunConfig
    step: int
    shapes: Mapping[str, tuple[int, ...]]
    evaluation: Mapping[str, Any] | None = None


def card(name: str, base: str, source: Path, model: Mapping[str, Any], run: Trained | None, adapter: bool) -> str:
    """The text of README.md.

    Args:
      name: the name to load the model by: a hub id, or the directory's name.
      base: the base model as the user named it: a hub id, a directory or a gs:// path.
      source: its local directory; its own README.md may name the licence.
      model: its config.json.
      run: the run that trained it, or None for a model that is written unchanged.
      adapter: True for an adapter of the peft library.
    """
    licence, scores = licence_of(source), _scores(run)
    title, public = name.rpartition("/")[2], hub.is_hub_id(base)
    shown = base if public else Path(base).name  # a local path means nothing to other people
    data = ModelCardData(
        license=licence["license"],
        license_name=licence.get("license_name"),
        license_link=licence.get("license_link"),
        base_model=base if public else None,
        base_model_relation=("adapter" if adapter else "finetune") if run else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag=TASK,
        tags=["jax", "instructblip_jax", str(model.get("model_type", "")), "vision-language"],
        datasets=sorted({one.partition(":")[0] for one in run.config.mixture.all_sets}) if run else None,
        model_name=title,
        eval_results=[_result(key, row) for key, row in scores.items()] or None,
    )
    parts = [f"# {title}", _summary(shown, model, run, adapter)]
    if run:
        parts += ["## Training", _training(shown, run), "## Evaluation", _evaluation(run, scores)]
    parts += ["## Use", _use(name, shown, model, adapter), "## Licence", _terms(shown, licence)]
    text = "\n\n".join(parts)
    return f"---\n{data.to_yaml()}\n---\n\n{text}\n"


def licence_of(source: Path) -> dict[str, str]:
    """The fields license, license_name and license_link of a model directory's own card.

    They are `UNSTATED` if it has no card, or the card names no licence.
    """
    path = source / "README.md"
    try:
        stated = (metadata_load(path) if path.is_file() else None) or {}
    except (ValueError, YAMLError):  # front matter that is not a mapping
        stated = {}
    known = {key: str(stated[key]) for key in ("license", "license_name", "license_link") if stated.get(key)}
    return known if "license" in known else UNSTATED


def _scores(run: Trained | None) -> dict[str, Mapping[str, Any]]:
    """Set -> its row in the evaluation of the exported step, if it has a score."""
    if run is None or run.evaluation is None or run.evaluation.get("step") != run.step:
        return {}
    return {name: row for name, row in run.evaluation["sets"].items() if row["value"] is not None}


def _result(name: str, row: Mapping[str, Any]) -> EvalResult:
    return EvalResult(
        task_type=TASK,
        dataset_type=name,
        dataset_name=name,
        dataset_split=row.get("data_split") or None,
        metric_type=row["metric"],
        metric_name=row["metric"],
        metric_value=round(row["value"], 4),
    )


def _summary(base: str, model: Mapping[str, Any], run: Trained | None, adapter: bool) -> str:
    kind = f"`{model.get('model_type')}` ({', '.join(model.get('architectures') or ['one form'])})"
    if run is None:
        return f"A copy of `{base}`, a model of type {kind}, written by instructblip_jax with all weights unchanged."
    what = "An adapter (LoRA) of" if adapter else "Fine-tuned from"
    return f"{what} `{base}`, a model of type {kind}, at step {run.step:,} of a run of instructblip_jax."


def _training(base: str, run: Trained) -> str:
    config, mixture, optim = run.config, run.config.mixture, run.config.optim
    count = sum(math.prod(shape) for shape in run.shapes.values())
    sampled = f"sampled in proportion to size^{mixture.exponent:g}"
    if mixture.weights:
        sampled += f", times {', '.join(f'{value:g} for {name}' for name, value in sorted(mixture.weights.items()))}"
    rate = f"learning rate {optim.learning_rate:g} after {optim.warmup_steps:,} steps of warm-up"
    decay = f"{optim.decay} decay to {optim.final_learning_rate:g}"
    optimizer = f"AdamW, {rate}, then {decay}; betas {optim.beta1:g} and {optim.beta2:g}"
    optimizer += f", weight decay {optim.weight_decay:g}"
    if optim.clip_norm:
        optimizer += f", gradients clipped to norm {optim.clip_norm:g}"
    rows = {
        "base model": f"`{base}`",
        "trainable set": f"`{config.trainable}`, {count:,} parameters in {len(run.shapes)} tensors; the rest is frozen",
        "datasets": ", ".join(mixture.all_sets) + f"; {sampled}",
        "steps": f"{run.step:,} of {config.steps:,}, batch size {_batch(config)}",
        "optimizer": optimizer,
        "precision": f"{config.dtype}, trained parameters float32{', language model int8' if config.int8 else ''}",
        "seed": str(config.seed),
    }
    if config.system or config.image_size:
        rows["options"] = ", ".join(f"{name} = {value!r}" for name, value in config.system_options().items())
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _batch(config: RunConfig) -> str:
    groups = config.mixture.groups
    return " + ".join(str(group.batch_size) for group in groups.values()) if groups else str(config.batch_size)


def _evaluation(run: Trained, scores: Mapping[str, Mapping[str, Any]]) -> str:
    if not scores:
        other = run.evaluation and run.evaluation.get("step")
        reason = f"Step {other:,} was evaluated, not this one." if other not in (None, run.step) else ""
        return reason or "This step has not been evaluated."
    lines = [
        "| dataset | split | part | metric | records | score | 95 % interval |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    for name, row in scores.items():
        span = " to ".join(f"{100 * end:.1f}" for end in row.get("interval") or ())
        cells = [name, row.get("data_split", ""), row["split"].replace("_", "-"), row["metric"], f"{row['count']:,}"]
        lines.append(f"| {' | '.join(cells)} | {100 * row['value']:.1f} | {span} |")
    lines += ["", "Scores are multiplied by 100. Intervals are percentile bootstraps over the records."]
    return "\n".join(lines)


def _use(name: str, base: str, model: Mapping[str, Any], adapter: bool) -> str:
    form = (model.get("architectures") or [""])[0]
    ours = ["import instructblip_jax as ib", ""]
    ours += [f'model = ib.from_pretrained("{name}")', "processor = ib.Processor.from_pretrained(model.directory)"]
    if adapter:
        theirs = ["from peft import PeftModel", f"from transformers import AutoProcessor, {form}", ""]
        theirs += [f'model = PeftModel.from_pretrained({form}.from_pretrained("{base}"), "{name}")']
        theirs += [f'processor = AutoProcessor.from_pretrained("{base}")']
        return _code("In transformers and peft", theirs)
    parts = [_code("In instructblip_jax", ours)]
    if form and _known(form):
        theirs = [f"from transformers import AutoProcessor, {form}", "", f'model = {form}.from_pretrained("{name}")']
        theirs += [f'processor = AutoProcessor.from_pretrained("{name}")']
        parts.append(_code("In transformers", theirs))
    else:
        parts.append("Its config.json names no class of `transformers`.")
    return "\n\n".join(parts)


def _known(form: str) -> bool:
    """True if `transformers` has a class of this name; the list of names is read without importing any class."""
    import transformers

    return form in dir(transformers)


def _code(title: str, lines: list[str]) -> str:
    return "\n".join([f"{title}:", "", "```python", *lines, "```"])


def _terms(base: str, licence: Mapping[str, str]) -> str:
    if licence == UNSTATED:
        return f"The licence of `{base}` applies. Its directory does not name one; look it up before you publish this."
    named, link = licence.get("license_name", licence["license"]), licence.get("license_link")
    return f"`{base}` states as its licence: {named}{f' ({link})' if link else ''}. It applies to this model too."
