"""Which binarisers are set against each other."""

import subprocess
import sys

from bsc.coders.binarisers.registry import REGISTRY
from bsc.figures.registry import BETWEEN, BINARY, CONTINUOUS

ADDED = """
from bsc.coders.binarisers.registry import REGISTRY, Entry
REGISTRY["my-topk"] = Entry("topk:TopK", "Mine", continuous=True)
REGISTRY["my-binary"] = Entry("binary_topk:BinaryTopK", "Mine, binary")
from bsc.figures.questions import _asked
print(sorted((one, other) for _, one, other in _asked({"my-topk", "my-binary"}, set())))
"""

CONTINUOUS_ADDED = """
from bsc.coders.binarisers.registry import REGISTRY, Entry
REGISTRY["mine"] = Entry("topk:TopK", "Mine", continuous=True)
from bsc.figures.questions import continuous_counterpart
there = {"topk", "groupmax", "mine"}
for name in ("binary-topk", "gumbel"):
    print(*(continuous_counterpart(name, among) for among in (there, {"mine"})))
"""


def test_every_binariser_is_on_one_side_or_between() -> None:
    assert sorted([*CONTINUOUS, *BINARY, *BETWEEN]) == sorted(REGISTRY)
    assert CONTINUOUS[0] == "topk"
    assert BINARY[0] == "binary-topk"
    assert BETWEEN == ("nbit", "hybrid")


def test_a_binariser_that_is_added_by_a_line_is_compared() -> None:
    said = subprocess.run([sys.executable, "-c", ADDED], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[('my-binary', 'my-topk')]"


def test_a_continuous_binariser_that_is_added_is_nobodys_first_counterpart() -> None:
    said = subprocess.run([sys.executable, "-c", CONTINUOUS_ADDED], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["topk mine", "groupmax mine"]
