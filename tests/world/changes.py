"""Tells whoever follows the world's state that it may have changed."""

from collections.abc import Callable

# Called under the world's lock.
Follower = Callable[[], None]


class Changes:
    def __init__(self) -> None:
        self._followers: list[Follower] = []

    def follow(self, follower: Follower) -> None:
        self._followers.append(follower)

    def leave(self, follower: Follower) -> None:
        self._followers.remove(follower)

    def happened(self) -> None:
        for follower in list(self._followers):
            follower()


# moto keeps its state in module globals, so a process holds one world, and one of these.
CHANGES = Changes()
