"""Which ways a sweep considers and how it ranks them, before anything is compiled."""

from instructblip_jax.plan import sweep
from instructblip_jax.plan.chips import GIB, parse
from instructblip_jax.plan.compiled import Lengths, Setting
from instructblip_jax.recipes.public import PUBLIC

SEVEN = Setting(PUBLIC["Salesforce/instructblip-vicuna-7b"], 128, Lengths(64, 64))


def test_every_way_uses_all_chips_and_is_considered_once():
    topology = parse("v5e:4x4*2")
    ways = sweep.ways(SEVEN, topology)
    assert len(set(ways)) == len(ways) > 50
    for way in ways:
        data, fsdp, tensor = way.mesh
        assert data * fsdp * tensor == topology.devices
        assert data % topology.slices == 0  # only rows lie across the slow network
    assert {way.layout.of("llm") for way in ways} == {"replicated", "fsdp", "tensor", "sequence", "sharded"}
    assert len(sweep.ways(SEVEN, parse("v5e:1x1"))) == 6  # int8 or not, and what is kept


def test_guesses_rank_as_the_compiled_programs_do():
    """vicuna-7b on v5e:4x4, compiled: replicated int8 is bound by arithmetic, tensor and fsdp send nearly as long."""
    topology = parse("v5e:4x4")
    given = 10 * GIB

    def guess(llm: str, remat: str = "layer", int8: bool = False) -> sweep.Guess:
        ways = sweep.ways(SEVEN, topology)
        way = next(w for w in ways if (w.layout.of("llm"), w.remat, w.int8) == (llm, remat, int8))
        return sweep.guess(way, topology, given)

    replicated = guess("replicated", int8=True)
    assert replicated.seconds <= min(guess("tensor").seconds, guess("fsdp").seconds)
    # The compiler's own figure for this one is 264 ms of arithmetic and 1.6 GiB of temporaries.
    assert 0.2 < replicated.seconds < 0.3
    assert 1 < replicated.memory / GIB - 10 < 3
    kept = [guess("replicated", remat).memory for remat in ("layer", "dots", "none")]
    assert kept == sorted(kept)
