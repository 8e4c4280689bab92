"""Runs `instructblip score`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from instructblip_jax import files
from instructblip_jax.evals.metrics import as_dict
from instructblip_jax.evals.prediction_files import read_pairs

FLAGS = flags.FLAGS
PLAIN = {"mean_rank", "difficult_left_out"}
"""Details that are not fractions of 1, and so are not shown in percent."""


def table(score: Mapping[str, Any]) -> str:
    """The result of `metrics.as_dict` as a Markdown table."""

    def number(name: str, value: float | None) -> str:
        return "undefined" if value is None else f"{value:.2f}" if name in PLAIN else f"{100 * value:.2f}"

    interval = "" if score["interval"] is None else " – ".join(f"{100 * end:.2f}" for end in score["interval"])
    name = score["metric"]
    lines = ["| | score | 95 % interval | examples |", "|---|---:|---:|---:|"]
    lines.append(f"| **{name}** | **{number(name, score['value'])}** | {interval} | {score['count']:,} |")
    for detail, value in score["details"].items():
        if isinstance(value, Mapping):
            for group, part in value.items():
                lines.append(f"| {detail} {group} | {number(name, part['value'])} | | {part['count']:,} |")
        else:
            lines.append(f"| {detail} | {number(detail, value)} | | |")
    return "\n".join(lines) + "\n"


def reasons(score: Mapping[str, Any]) -> Iterator[str]:
    """The reasons why the score, or that of a group, is undefined or unusual."""
    if "reason" in score:
        yield score["reason"]
    for detail, parts in score["details"].items():
        for group, part in parts.items() if isinstance(parts, Mapping) else ():
            if "reason" in part and "reason" not in score:
                yield f"{detail} {group}: {part['reason']}"


def run(args: Sequence[str]) -> None:
    """Score the predictions, print a table, and write the JSON file if --json is given."""
    score = as_dict(args[0], read_pairs(FLAGS.predictions, FLAGS.references))
    print(table(score))
    if score["missing"]:
        print(f"references without a prediction, which count as wrong: {score['missing']:,}")
    for reason in reasons(score):
        print(reason)
    if FLAGS.json:
        files.write_json(FLAGS.json, score)
