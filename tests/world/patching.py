"""The one way in which the world changes moto: replace an attribute, keep the original at hand."""

from collections.abc import Callable
from typing import Any

Wrapper = Callable[..., Any]


def wrap(owner: Any, name: str) -> Callable[[Wrapper], Wrapper]:
    """Decorator: the function replaces `owner.name` and gets the original as its first argument."""
    original = getattr(owner, name)

    def install(function: Wrapper) -> Wrapper:
        def patched(*args: Any, **kwargs: Any) -> Any:
            return function(original, *args, **kwargs)

        patched.__name__ = name
        setattr(owner, name, patched)
        return function

    return install
