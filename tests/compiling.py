"""How tests compile, which is most of what they do."""

LEVEL = "--xla_backend_optimization_level=0"
"""The compiler's last stage (machine code, not the program's own passes) optimizes nothing: half the time."""
FUSIONS = "--xla_cpu_use_fusion_emitters=false"
"""Its older way of writing fusions: half of it again, and other roundings. For commands in processes of their own, not
where we are held against a reference."""
