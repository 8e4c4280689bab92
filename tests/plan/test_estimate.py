"""The likely time of a TPU program, from the compiler's own cycles; and where it goes."""

import pytest

from instructblip_jax.plan import chips, collectives, estimate, hlo_cost, losses
from instructblip_jax.plan.hlo import Program

NEAR = "{1,0:T(8,128)S(1)}"
SCOPE = "jit(step)/transpose(jvp(llm))/while/body/closed_call/checkpoint"
PROGRAM = f"""HloModule m, is_scheduled=true

ENTRY %main (p: f32[256,256], q: f32[256,256], r: f32[1048576]) -> f32[256,256] {{
  %p = f32[256,256]{NEAR} parameter(0)
  %q = f32[256,256]{NEAR} parameter(1)
  %r = f32[1048576]{{0}} parameter(2)
  %copy-start = (f32[1048576]{{0:S(1)}}, f32[1048576]{{0}}, u32[]) copy-start(%r)
  %product = f32[256,256]{NEAR} dot(%p, %q), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}, \
metadata={{op_name="{SCOPE}/dot_general"}}, backend_config={{"window_config":{{"estimated_cycles":"3000"}}}}
  %again = f32[256,256]{NEAR} dot(%p, %q), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}, \
metadata={{op_name="{SCOPE}/rematted_computation/dot_general"}}, backend_config={{"estimated_cycles":"4500"}}
  %copy-done = f32[1048576]{{0:S(1)}} copy-done(%copy-start)
  ROOT %out = f32[256,256]{NEAR} add(%product, %again), \
metadata={{op_name="{SCOPE}/add"}}, backend_config={{"estimated_cycles":"1500"}}
}}
"""


def test_products_take_their_cycles_and_everything_else_half():
    parsed, topology = Program(PROGRAM), chips.parse("v5e:1x1")
    ops = hlo_cost.ops(parsed)
    made = estimate.estimate(parsed, ops, [], topology, [(0, (0, 0, 0))])
    assert made.likely == pytest.approx((3000 + 4500 + 1500 / 2) / 1.5e9)  # the copy runs beside the products
    product = 2 * 256**3 / 197e12
    assert made.per_op == pytest.approx(2 * product + 4 * 2**20 / 819e9)
    rows = {(row.what, row.part): row.seconds for row in losses.losses(parsed, ops, {}, [], topology.chip, ("llm",))}
    assert rows == {
        (losses.USEFUL, ""): pytest.approx(product),
        (losses.STALLS, "llm"): pytest.approx(3000 / 1.5e9 - product),
        (losses.REPEATED, "llm"): pytest.approx(4500 / 1.5e9),
        (losses.OTHER, "llm"): pytest.approx(750 / 1.5e9),
    }


PIECES = """HloModule m, is_scheduled=true

%first (a: f32[2,64]) -> f32[4,64] {
  %a = f32[2,64]{1,0} parameter(0)
  ROOT %gathered = f32[4,64]{1,0} all-gather(%a), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
}

%last (b: f32[4,64]) -> f32[4,64] {
  %b = f32[4,64]{1,0} parameter(0)
  ROOT %again = f32[4,64]{1,0} all-gather(%b), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
}

ENTRY %main (p: f32[2,64], q: f32[65536]) -> f32[4,64] {
  %p = f32[2,64]{1,0} parameter(0)
  %q = f32[65536]{0} parameter(1)
  %async-collective-start = f32[4,64]{1,0} fusion(%p), kind=kCustom, calls=%first
  %work = f32[65536]{0} negate(%q)
  ROOT %async-collective-done = f32[4,64]{1,0} fusion(%async-collective-start), kind=kCustom, calls=%last
}
"""


@pytest.mark.parametrize(("text", "hidden"), [(PIECES, True), (PIECES.replace("async-collective", "fused"), False)])
def test_a_collective_in_pieces_is_hidden_by_what_lies_between_them(text, hidden):
    parsed, topology = Program(text), chips.parse("v5e:2x2")
    where = [(0, (n // 2, n % 2, 0)) for n in range(4)]
    (found,) = collectives.find(parsed, 4, {}, ("llm",))
    made = estimate.estimate(parsed, hlo_cost.ops(parsed), [found], topology, where)
    assert (made.sending == 0) == hidden


PASSED = """HloModule m, is_scheduled=true

%async_collective_fusion.1 (a: f32[4096], b: f32[64]) -> (f32[64], f32[4096]) {
  %a = f32[4096]{0} parameter(0)
  %b = f32[64]{0} parameter(1)
  %work = f32[64]{0} negate(%b)
  %step = f32[4096]{0} all-gather(%a), channel_id=7, replica_groups={{0,1}}, dimensions={0}
  ROOT %both = (f32[64]{0}, f32[4096]{0}) tuple(%work, %step)
}

ENTRY %main (p: f32[4096], q: f32[64]) -> (f32[64], f32[4096]) {
  %p = f32[4096]{0} parameter(0)
  %q = f32[64]{0} parameter(1)
  ROOT %beside = (f32[64]{0}, f32[4096]{0}) fusion(%p, %q), kind=kOutput, output_to_operand_aliasing={{1}: (0, {})}, \
calls=%async_collective_fusion.1
}
"""


def test_a_collective_beside_a_product_is_no_traffic_of_the_products_fusion():
    assert hlo_cost.memory_traffic(Program(PASSED)) == 2 * 4 * 64
