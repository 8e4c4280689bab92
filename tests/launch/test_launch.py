"""Launch scripts: lint, --help, refusals, and every command that --dry-run prints, with nothing called."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPTS = ["demo.sh", "gke.sh", "multi_gpu.sh", "slurm.sh", "test.sh", "tpu_slice.sh", "worker.sh"]
TRAIN = ["train", "--config", "configs/digits.py", "--workdir", "gs://bucket/a run"]
SLICE = {"TPU_NAME": "blip", "ZONE": "us-west4-a", "TYPE": "v5litepod-16"}
LOST = [
    (["train", "--config=C", "--workdir", "runs/x"], "runs/x too"),
    (["evaluate", "--workdir=/mnt/x"], "/mnt/x too"),
    (["ablate", "-workdir", "x", "--", "--workdir=gs://b/run"], "ablate needs --workdir gs://"),
    (["compare", "--config=C", "--seeds=0"], "compare needs --workdir gs://"),
    (["answer", "--model", "M", "-workdir=gs:/b/run", "what is it ?"], "gs:/b/run too"),
    (["train", "--workdir=gs://b/run", "--workdir=runs/y"], "runs/y too"),  # the last one counts
    (["train", "--workdir=gs://"], "gs:// too"),
    (["train", "--config=C"], "train needs --workdir gs://"),
    (["evaluate", "--config=C", "--workdir"], "evaluate needs --workdir gs://"),
]
"""Command lines that would leave their results on disks which go with the machines, and what is said to them."""
POD = {"IMAGE": "r/blip:1", "ACCELERATOR": "tpu-v6e-slice", "TOPOLOGY": "4x4"}


def planned(result) -> list[list[str]]:
    """The commands of a dry run, each as its words."""
    assert result.returncode == 0, result.stderr
    return [shlex.split(line[2:]) for line in result.stdout.splitlines() if line.startswith("+ ")]


def test_shellcheck_has_nothing_to_say():
    command = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or "shellcheck"
    scripts = [*sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("launch/*.sh")), ".ci/run"]
    assert len(scripts) >= 8
    done = subprocess.run([command, "--external-sources", *scripts], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_strict_short_and_tell_their_use(checkout, script):
    text = (ROOT / "launch" / script).read_text()
    assert "\nset -euo pipefail\n" in text
    assert len(text.splitlines()) <= 150
    told = checkout.run(script, "--help")
    assert told.returncode == 0
    assert f"launch/{script}" in told.stdout
    assert "--dry-run" in told.stdout
    assert "#" not in told.stdout
    assert checkout.calls() == []


@pytest.mark.parametrize(
    ("script", "args", "settings", "word"),
    [
        ("worker.sh", [], {}, "no command"),
        ("multi_gpu.sh", ["--processes", "2"], {}, "no command"),
        ("multi_gpu.sh", ["--processes", "0", *TRAIN], {}, "--processes '0'"),
        ("multi_gpu.sh", ["--processes", "3", *TRAIN], {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, "4 GPUs cannot be shared"),
        ("multi_gpu.sh", ["--processes", "2", *TRAIN], {}, "no GPU is seen"),
        ("slurm.sh", ["--dry-run"], {}, "no command"),
        ("slurm.sh", TRAIN, {}, "sbatch"),
        ("slurm.sh", TRAIN, {"SLURM_SUBMIT_DIR": "/tmp", "SLURM_JOB_ID": 7}, "root of the checkout"),
        ("slurm.sh", ["--dry-run", *TRAIN], {"SLURM_NTASKS_PER_NODE": 3}, "8 GPUs cannot be shared equally"),
        ("tpu_slice.sh", ["create"], {}, "set TPU_NAME"),
        ("tpu_slice.sh", ["create"], {"TPU_NAME": "a"}, "set ZONE"),
        ("tpu_slice.sh", ["create"], {"TPU_NAME": "a", "ZONE": "z"}, "set TYPE"),
        ("tpu_slice.sh", ["create"], SLICE | {"BILLING": "free"}, "BILLING is 'free'"),
        ("tpu_slice.sh", ["watch"], SLICE, "watch what?"),
        ("tpu_slice.sh", ["begin"], SLICE, "no action 'begin'"),
        *[("tpu_slice.sh", [action, *line], SLICE, word) for action in ("run", "watch") for line, word in LOST],
        ("tpu_slice.sh", ["watch", "export", "--model", "M", "--out", "tuned"], SLICE, "--out 'tuned' with it"),
        ("tpu_slice.sh", ["watch", "prepare", "vqav2", "-out=sets"], SLICE, "--out 'sets' with it"),
        ("gke.sh", ["apply", *TRAIN], {}, "set IMAGE"),
        ("gke.sh", ["apply", *TRAIN], POD | {"ACCELERATOR": ""}, "set ACCELERATOR"),
        ("gke.sh", ["apply", *TRAIN], POD | {"TOPOLOGY": "16"}, "TOPOLOGY '16'"),
        ("gke.sh", ["apply", *TRAIN], POD | {"TOPOLOGY": "2x3"}, "6 chips, not a multiple of CHIPS 4"),
        ("gke.sh", ["apply"], POD, "apply what?"),
        ("gke.sh", ["start"], POD, "no action 'start'"),
        *[("gke.sh", ["apply", *line], POD, word) for line, word in LOST],
        ("demo.sh", ["--steps=10"], {}, "'--steps=10' is not an argument"),
        ("demo.sh", ["--dry-run", "runs/x"], {}, "'runs/x' is not an argument"),
    ],
)
def test_what_is_missing_or_wrong_is_told_in_one_line(checkout, script, args, settings, word):
    refused = checkout.run(script, *args, **settings)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith(f"{script}: ")
    assert refused.stderr.count("\n") == 1
    assert word in refused.stderr
    assert [call for call in checkout.calls() if not call.startswith("nvidia-smi")] == []


def test_dry_run_of_a_worker(checkout):
    settings = {"EXTRA": "tpu", "INSTALL": "1", "VENV": "env"}
    result = checkout.run("worker.sh", "--dry-run", *TRAIN, PYTHON=sys.executable, **settings)
    make, install, *environment, run = planned(result)
    assert make == [sys.executable, "-m", "venv", "env"]
    assert install == [
        "env/bin/python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-c",
        "launch/constraints.txt",
        "-e",
        ".[tpu]",
    ]
    assert ["export", "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"] in environment
    assert run == ["exec", "env/bin/python", "-m", "instructblip_jax", *TRAIN]
    assert not (checkout.root / "env").exists()
    background, show = planned(checkout.run("worker.sh", "--dry-run", "--follow", *TRAIN, **settings))
    assert background[:2] == ["setsid", "nohup"]
    assert shlex.join(TRAIN) in background[-1]
    assert show[0] == "tail"
    assert checkout.calls() == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, []),
        ({"BILLING": "spot", "PROJECT": "mine"}, ["--spot", "--project=mine"]),
        ({"BILLING": "reserved", "TYPE": "v6e-16"}, ["--reserved", "--accelerator-type=v6e-16"]),
    ],
)
def test_dry_run_of_a_slice(checkout, settings, words):
    more = {"EXTRA": "tpu,demo", "SETUP": "cp -r a b"}
    result = checkout.run("tpu_slice.sh", "--dry-run", "watch", *TRAIN, **SLICE | settings | more)
    look, create, again, pack, send, unpack, install, setup, run, delete = planned(result)
    vm = ["gcloud", "compute", "tpus", "tpu-vm"]
    assert look == again
    assert look[:5] == [*vm, "list"]
    assert create[:6] == [*vm, "create", "blip"]
    software = "v2-alpha-tpuv6e" if settings.get("TYPE") else "v2-alpha-tpuv5-lite"
    assert {"--zone=us-west4-a", f"--version={software}", *words} <= set(create)
    assert ("--spot" in create) == (settings.get("BILLING") == "spot")
    assert "git ls-files" in pack[-1]
    assert send[:7] == [*vm, "scp", "CHECKOUT.tgz", "blip:checkout.tgz"]
    for step in (send, unpack, install, setup, run):
        assert "--worker=all" in step
    assert install[-1] == "--command=cd instructblip_jax && EXTRA=tpu,demo bash launch/worker.sh --install"
    assert setup[-1] == "--command=cp -r a b"
    assert shlex.split(run[-1].partition("=")[2])[4:] == ["bash", "launch/worker.sh", "--follow", *TRAIN]
    assert delete[:6] == [*vm, "delete", "blip"]
    assert checkout.calls() == []
    assert "billed" not in result.stdout  # nothing was made, and nothing would be left


def test_dry_run_of_a_queued_slice_and_of_the_other_actions(checkout):
    queue = ["gcloud", "compute", "tpus", "queued-resources"]
    settings = SLICE | {"QUEUED": "1", "BILLING": "spot"}
    _, create, _ = planned(checkout.run("tpu_slice.sh", "--dry-run", "create", **settings))
    assert create[:6] == [*queue, "create", "blip"]
    assert {"--node-id=blip", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"} <= set(create)
    [delete] = planned(checkout.run("tpu_slice.sh", "--dry-run", "delete", **settings))
    assert delete == [*queue, "delete", "blip", "--zone=us-west4-a", "--force", "--quiet"]
    [status] = planned(checkout.run("tpu_slice.sh", "--dry-run", "status", **settings))
    assert status == [*queue, "list", "--zone=us-west4-a"]
    stopped = checkout.run("tpu_slice.sh", "--dry-run", "stop", **settings)
    assert planned(stopped)[0][-1].endswith("launch/worker.sh --stop")
    assert "is billed until" in stopped.stdout
    assert checkout.calls() == []


@pytest.mark.parametrize(
    ("settings", "hosts", "chips"),
    [({}, 4, 4), ({"TOPOLOGY": "2x2x4"}, 4, 4), ({"TOPOLOGY": "2x4", "CHIPS": "8"}, 1, 8), ({"TOPOLOGY": "1x1"}, 1, 1)],
)
def test_dry_run_of_a_job_on_gke(checkout, settings, hosts, chips):
    odd = ['say "A & B"', "back\\slash", "$HOME"]
    result = checkout.run("gke.sh", "--dry-run", "apply", *TRAIN, *odd, SLICES=2, SPOT=1, **POD | settings)
    assert planned(result) == [["kubectl", "apply", "--filename=-"]]
    job = yaml.safe_load(result.stdout.partition("\n")[2])
    [replicated] = job["spec"]["replicatedJobs"]
    pods = replicated["template"]["spec"]
    pod = pods["template"]["spec"]
    [container] = pod["containers"]
    assert job["kind"] == "JobSet"
    assert replicated["replicas"] == 2
    assert pods["parallelism"] == pods["completions"] == hosts
    assert container["resources"]["limits"] == {"google.com/tpu": chips}
    assert container["image"] == "r/blip:1"
    assert container["args"] == [*TRAIN, *odd]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": settings.get("TOPOLOGY", "4x4"),
        "cloud.google.com/gke-spot": "true",
    }
    assert pods["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]
    assert checkout.calls() == []


def test_dry_run_of_the_other_actions_on_gke(checkout):
    build, push = planned(checkout.run("gke.sh", "--dry-run", "image", **POD))
    assert build[:2] == ["docker", "build"]
    assert {"EXTRA=tpu", "launch/Dockerfile", "r/blip:1"} <= {word.removeprefix("--build-arg=") for word in build}
    assert push == ["docker", "push", "r/blip:1"]
    [logs] = planned(checkout.run("gke.sh", "--dry-run", "logs", NAME="mine"))
    assert logs[:3] == ["kubectl", "logs", "--follow"]
    assert "jobset-name=mine," in logs[-1]
    deleted = checkout.run("gke.sh", "--dry-run", "delete", NAME="mine")
    assert planned(deleted) == [["kubectl", "delete", "jobset", "mine"]]
    assert "are billed until" in deleted.stdout
    assert checkout.calls() == []


def test_dry_run_under_slurm(checkout):
    install, step, requeue = planned(checkout.run("slurm.sh", "--dry-run", *TRAIN))
    assert install == ["bash", "launch/worker.sh", "--install"]
    assert step[0] == "srun"
    assert step[-len(TRAIN) - 2 :] == ["bash", "launch/worker.sh", *TRAIN]
    assert requeue[:2] == ["scontrol", "requeue"]
    header = [line for line in (ROOT / "launch" / "slurm.sh").read_text().splitlines() if line.startswith("#SBATCH ")]
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:TERM@300"} <= set(header)
    assert checkout.calls() == []


def test_dry_run_on_one_machine(checkout):
    [alone] = planned(checkout.run("multi_gpu.sh", "--dry-run", *TRAIN))
    assert alone == ["exec", "bash", "launch/worker.sh", *TRAIN]
    settings = {"CUDA_VISIBLE_DEVICES": "0,1,4,5", "JAX_COORDINATOR_ADDRESS": "localhost:9"}
    _, *processes = planned(checkout.run("multi_gpu.sh", "--dry-run", "--processes=2", *TRAIN, **settings))
    for k, (process, gpus) in enumerate(zip(processes, ["0,1", "4,5"], strict=True)):
        assert process == [
            "env",
            "JAX_COORDINATOR_ADDRESS=localhost:9",
            "JAX_NUM_PROCESSES=2",
            f"JAX_PROCESS_ID={k}",
            f"CUDA_VISIBLE_DEVICES={gpus}",
            "bash",
            "launch/worker.sh",
            *TRAIN,
        ]
    assert checkout.calls() == []


def test_the_notebook_is_saved_without_outputs():
    notebook = json.loads((ROOT / "launch" / "colab.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
