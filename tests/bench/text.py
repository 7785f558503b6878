"""How figures are printed."""

import statistics
from collections.abc import Sequence


def seconds(took: Sequence[float]) -> str:
    text = f"{statistics.median(took):.3f} s"
    return f"{text} ({min(took):.3f} to {max(took):.3f})" if len(took) > 1 else text


def heading(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)
