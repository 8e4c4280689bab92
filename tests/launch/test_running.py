"""Launch scripts at work, among stand-ins for the clouds' programs and for the package's Python."""

import signal

import pytest

SLICE = {"TPU_NAME": "blip", "ZONE": "us-west4-a", "TYPE": "v5litepod-16", "POLL": "0.01"}
TRAIN = ("train", "--workdir=gs://b/run")

# A slice that lives in the file `state`; `script` says how each start of the command ends: STATUS or STATUS:STATE.
GCLOUD = """
cd {root}
case "$4 $*" in
    "list "*) grep . state || true ;;
    "create "*) grep -q . capacity && sed -i 1d capacity && exit 1; echo READY >state ;;
    "delete "*) : >state ;;
    "scp "*) [ -s "$5" ] && ls -l "$5" >>packed ;;
    *--follow*)
        read -r how <script && sed -i 1d script
        [ "$how" = "${{how#*:}}" ] || echo ${{how#*:}} >state
        exit "${{how%%:*}}"
        ;;
esac
"""


def await_lines(process, *words: str) -> None:
    """Read standard output until each of the words has come, in any order."""
    left = set(words)
    while left:
        line = process.stdout.readline()
        assert line, f"ended before {left}"
        left -= {word for word in left if word in line}


@pytest.fixture
def cloud(checkout):
    """A project without a slice; ``cloud(*ends)`` makes one whose commands end so, one after the other."""

    def make(*ends: str, state: str = "", refusals: int = 0):
        (checkout.root / "state").write_text(f"{state}\n" if state else "")
        (checkout.root / "script").write_text("".join(f"{end}\n" for end in ends))
        (checkout.root / "capacity").write_text("none\n" * refusals)
        checkout.program("gcloud", GCLOUD.format(root=checkout.root))
        checkout.program("git", "printf 'setup.py\\0'")
        return checkout

    return make


def steps(checkout) -> list[str]:
    """What was done to the slice, but for looking at it: create, send, run ..."""
    names = {"list": None, "scp": "send", "git": None}
    found = []
    for call in checkout.calls():
        words = call.split()
        what = words[4] if words[0] == "gcloud" else words[0]
        if what == "ssh":
            what = next((w for w in ("--install", "--follow", "--stop") if w in call), None)
        found.append(names.get(what, what))
    return [name for name in found if name]


def test_a_slice_that_is_preempted_is_made_again_and_deleted_when_the_job_is_done(cloud):
    checkout = cloud("255:PREEMPTED", "0")
    done = checkout.run("tpu_slice.sh", "watch", *TRAIN, **SLICE)
    assert done.returncode == 0, done.stderr
    once = ["create", "send", "--install", "--follow", "delete"]
    assert steps(checkout) == once * 2
    assert "blip was taken away (PREEMPTED)" in done.stdout
    assert "billed" not in done.stdout


def test_a_slice_that_is_gone_without_a_trace_is_asked_for_until_there_is_capacity(cloud):
    checkout = cloud("255:", "0", refusals=2, state="READY")
    done = checkout.run("tpu_slice.sh", "watch", *TRAIN, KEEP=1, **SLICE)
    assert done.returncode == 0, done.stderr
    once = ["send", "--install", "--follow"]
    assert steps(checkout) == [*once, "create", "create", "create", *once]
    assert "blip was taken away (gone)" in done.stdout
    assert done.stdout.count("no slice yet; asking again") == 2
    assert done.stdout.endswith("exists and is billed until: bash launch/tpu_slice.sh delete\n")  # KEEP=1


def test_a_refusal_at_first_is_told_and_ends_it(cloud):
    checkout = cloud("0", refusals=1)
    refused = checkout.run("tpu_slice.sh", "watch", *TRAIN, **SLICE)
    assert refused.returncode == 1
    assert steps(checkout) == ["create"]
    assert "may exist and is billed until" in refused.stdout


def test_a_job_that_fails_by_itself_is_not_tried_again_and_what_remains_is_told(cloud):
    checkout = cloud("1")
    failed = checkout.run("tpu_slice.sh", "watch", *TRAIN, **SLICE)
    assert failed.returncode == 1
    assert steps(checkout) == ["create", "send", "--install", "--follow"]
    assert "status 1" in failed.stderr
    assert "blip (us-west4-a, on-demand) exists and is billed until" in failed.stdout


def test_a_lost_connection_is_taken_up_again_and_a_dead_job_is_cleared_away_first(cloud):
    checkout = cloud("255", "134", "0", state="READY")
    done = checkout.run("tpu_slice.sh", "watch", *TRAIN, **SLICE)
    assert done.returncode == 0, done.stderr
    assert steps(checkout) == ["send", "--install", "--follow", "--follow", "--stop", "--follow", "delete"]


def test_starting_again_ends_after_so_many_times_in_a_row(cloud):
    checkout = cloud("134", "134", "134", state="READY")
    failed = checkout.run("tpu_slice.sh", "watch", *TRAIN, RETRIES=2, **SLICE)
    assert failed.returncode == 134
    assert steps(checkout).count("--follow") == 3


def test_the_packed_checkout_is_the_users_alone_and_does_not_stay(cloud):
    checkout = cloud("255:PREEMPTED", "0")
    (checkout.root / "tmp").mkdir()
    (checkout.root / "precious").write_text("theirs")
    (checkout.root / "tmp" / "blip.tgz").symlink_to(checkout.root / "precious")  # where somebody expects it
    done = checkout.run("tpu_slice.sh", "watch", *TRAIN, TMPDIR=checkout.root / "tmp", **SLICE)
    assert done.returncode == 0, done.stderr
    packed = (checkout.root / "packed").read_text().splitlines()
    assert [line[:10] for line in packed] == ["-rw-------"] * 2
    assert (checkout.root / "precious").read_text() == "theirs"
    assert [path.name for path in (checkout.root / "tmp").iterdir()] == ["blip.tgz"]


# worker.sh: the environment, and a run that outlives the connection it was begun by


def test_a_worker_installs_once_and_again_when_something_changed(checkout):
    checkout.program(
        "python3",
        f'mkdir -p "{checkout.root}/env/bin"; ln -sf "{checkout.root}/bin/python3" "{checkout.root}/env/bin/python"',
    )
    settings = {"INSTALL": "1", "VENV": checkout.root / "env"}
    pinned = "launch/constraints.txt"

    def installed(extra: str, versions: str = pinned) -> list[str]:
        done = checkout.run("worker.sh", "--install", EXTRA=extra, CONSTRAINTS=versions, **settings)
        assert done.returncode == 0, done.stderr
        return [call.partition("check ")[2] for call in checkout.calls() if " install " in call]

    assert installed("tpu") == ["-c launch/constraints.txt -e .[tpu]"]
    assert installed("tpu") == []
    assert installed("tpu,demo") == ["-c launch/constraints.txt -e .[tpu,demo]"]
    assert installed("tpu,demo", versions="") == ["-e .[tpu,demo]"]
    assert installed("tpu,demo", versions="") == []
    assert len(installed("tpu,demo")) == 1
    with (checkout.root / pinned).open("a") as file:
        file.write("another==1.0\n")
    assert len(installed("tpu,demo")) == 1
    assert installed("tpu,demo") == []


def test_a_worker_with_an_old_python_only_fetches_another(checkout):
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        checkout.program(name, '[ "$1" != -c ]')
    result = checkout.run("worker.sh", "--dry-run", "--install", INSTALL="1", VENV=checkout.root / "env", EXTRA="")
    assert "+ python3 -m uv venv --quiet --seed --python 3.12" in result.stdout


@pytest.mark.parametrize(("end", "status"), [("end=0", 0), ("end=3", 3)])
def test_a_followed_run_ends_as_its_command_does(checkout, end, status):
    done = checkout.run("worker.sh", "--follow", "train", "two words", end)
    assert done.returncode == status
    assert f"train two words {end}" in done.stdout


def test_a_followed_run_goes_on_without_its_follower(checkout):
    with checkout.start("worker.sh", "--follow", "train", "stay") as first:
        await_lines(first, "train stay")
        first.kill()
    with checkout.start("worker.sh", "--follow", "train", "stay") as second:
        await_lines(second, "train stay")
        other = checkout.run("worker.sh", "--follow", "evaluate")
        assert other.returncode == 2
        assert "already running here: train stay" in other.stderr
        assert checkout.run("worker.sh", "--stop").returncode == 0
        out, _ = second.communicate(timeout=60)
    assert out.endswith("saved train stay\n")
    assert second.returncode == 143
    assert checkout.run("worker.sh", "--stop").returncode == 0  # nothing runs


# multi_gpu.sh: processes, their shares and their ends


def test_processes_have_numbers_shares_and_one_address(checkout):
    done = checkout.run("multi_gpu.sh", "--processes", "2", "train", CUDA_VISIBLE_DEVICES="3,2,1,0")
    assert done.returncode == 0, done.stderr
    lines = sorted(line.split() for line in done.stdout.splitlines())
    assert [line[-1] for line in lines] == ["train", "train"]
    zero, one = sorted(lines, key=len)
    assert zero[:2] == ["process", "0"]
    assert one[:4] == ["[process", "1]", "process", "1"]
    assert zero[3] == one[5] == "localhost:4321"
    assert zero[5] == "3,2:"
    assert one[7] == "1,0:"


@pytest.mark.parametrize(
    ("ends", "who", "how", "status", "saved"),
    [
        (["end1=7"], 1, "status 7", 7, 2),
        (["kill0"], 0, "signal 9", 137, 2),
        (["lose1", "kill1"], 1, "signal 9", 137, 0),  # the others only noticed that it is gone, and ended by themselves
    ],
)
def test_one_bad_end_is_told_in_one_line_and_stops_the_others(checkout, ends, who, how, status, saved):
    failed = checkout.run("multi_gpu.sh", "--processes", "3", "train", *ends, "stay", JAX_PLATFORMS="cpu")
    assert failed.returncode == status
    [line] = [line for line in failed.stderr.splitlines() if line and "Terminated" not in line]  # of the stand-in
    assert line.startswith(f"multi_gpu.sh: process {who} of 3 ended with {how}, so the others")
    assert failed.stdout.count("saved") == saved


def test_a_signal_to_the_script_reaches_all_processes(checkout):
    with checkout.start("multi_gpu.sh", "--processes", "2", "train", "stay", JAX_PLATFORMS="cpu") as process:
        await_lines(process, "process 0 at", "process 1 at")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert out.count("saved") == 2
    assert "ended" not in err


# slurm.sh: told to stop, saved, queued again


@pytest.mark.parametrize(("state", "again"), [("RUNNING", True), ("COMPLETING", False)])
def test_a_slurm_job_that_is_told_to_stop_saves_and_is_queued_again(checkout, state, again):
    checkout.program("srun", 'while [ "$1" != bash ]; do shift; done; exec "$@"')
    checkout.program("squeue", f"echo {state}")
    checkout.program("scontrol", "")
    job = {"SLURM_JOB_ID": 7, "SLURM_SUBMIT_DIR": checkout.root, "SLURM_NTASKS_PER_NODE": 4, "SLURM_GPUS_ON_NODE": 4}
    with checkout.start("slurm.sh", "train", "stay", **job) as process:
        await_lines(process, "train stay")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert "saved train stay" in out
    assert process.returncode == 143
    calls = checkout.calls()
    assert ("scontrol requeue 7" in calls) == again
    assert any(call.startswith("srun --cpus-per-task=8 --kill-on-bad-exit=1 bash launch/worker.sh") for call in calls)


@pytest.mark.parametrize("status", [0, 3])
def test_a_slurm_job_that_ends_by_itself_is_not_queued_again(checkout, status):
    checkout.program("srun", 'while [ "$1" != bash ]; do shift; done; exec "$@"')
    done = checkout.run("slurm.sh", "train", f"end={status}", SLURM_JOB_ID=7, SLURM_SUBMIT_DIR=checkout.root)
    assert done.returncode == status
    assert [call.split()[0] for call in checkout.calls()] == ["srun"]
