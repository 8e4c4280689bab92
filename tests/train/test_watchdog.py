"""The watchdog, by a clock of the test's own, and once in earnest."""

import time

import pytest

from instructblip_jax.train import watchdog
from instructblip_jax.train.meter import Meter
from instructblip_jax.train.watchdog import Watchdog


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def after_steps(clock, seconds: float, count: int = 5) -> Watchdog:
    meter = Meter()
    meter.now = ("steps", clock.now)
    dog = Watchdog(meter, 10, clock=clock)
    for step in range(11, 11 + count):
        clock.now += seconds
        dog.beat(step)
    return dog


def test_it_is_silent_while_steps_go_on(clock):
    dog = after_steps(clock, 1.0)
    clock.now += 59
    assert dog.look() is None


def test_it_says_since_when_and_what_the_loop_was_doing_and_why_and_says_it_again(clock):
    dog = after_steps(clock, 1.0)
    clock.now += 61
    message = dog.look()
    assert message.startswith("no step has finished for 61 s, since step 15 at ")
    assert "(a step takes 1 s): the loop is waiting for the devices. The usual cause: another host" in message
    clock.now += 200
    assert dog.look() is None  # it does not fill the log
    clock.now += 101
    assert "for 362 s" in dog.look()
    dog.beat(16)
    assert dog.look() is None


@pytest.mark.parametrize("phase", ["input_wait", "saving", "compiling"])
def test_each_phase_has_its_own_words(clock, phase):
    dog = after_steps(clock, 1.0)
    dog.meter.now = (phase, clock.now)
    clock.now += watchdog.COMPILING - 1
    message = dog.look()
    if phase == "compiling":  # takes minutes for a large model
        assert message is None
        clock.now += 2
        message = dog.look()
    assert f"the loop {watchdog.DOING[phase][0]}. The usual cause: {watchdog.DOING[phase][1]}" in message


def test_long_steps_are_given_their_time(clock):
    dog = after_steps(clock, 10.0)
    clock.now += 199
    assert dog.look() is None
    clock.now += 2
    assert dog.look() is not None


def test_a_first_step_and_one_that_was_compiled_for_tell_no_pace(clock):
    dog = after_steps(clock, 1.0, count=0)
    dog.meter.spent["compiling"] += 300
    clock.now += 300
    dog.beat(11)
    clock.now += 599
    assert dog.look() is None  # the devices may wait for a host that still compiles
    dog.beat(12)
    clock.now += 1
    dog.beat(13)
    dog.took.popleft()
    clock.now += 61
    assert "since step 13" in dog.look()


def test_the_thread_speaks_and_ends_with_the_loop(monkeypatch):
    monkeypatch.setattr(watchdog, "PATIENCE", 0.0)
    reports = []
    with Watchdog(Meter(), 0, report=reports.append) as dog:
        deadline = time.monotonic() + 20
        while not reports and time.monotonic() < deadline:
            time.sleep(0.05)
    assert len(reports) == 1
    assert "since step 0" in reports[0]
    assert not dog.thread.is_alive()
