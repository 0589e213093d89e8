"""Whether a pickle can be opened at no more cost than its size, told without opening it.

What objects a pickle may ask for is another question, which whoever opens it answers. But plain
tuples are enough to end a process: of sixty, each of which has the one before it twice, the last is
hashed in 2 to the power of 60 steps, and of a million, each in the next, by a recursion in C that
overflows its stack. Lists do the same to whoever prints them.
"""

import pickletools
from collections.abc import Sequence
from typing import IO, cast

MOST_ITEMS = 10_000_000
"""Of a pickle, an item counted as often as it is reached. A training's checkpoint has 100,000."""
MOST_LEVELS = 200

_INTO_TARGET = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"})
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})
_EMPTY = (pickletools.pylist, pickletools.pydict, pickletools.pyset)
_PLAIN, _MARK = -1, -2
"""On the stack: a text, a number, and what else has no items; a mark."""
_BEGUN = -1
"""The number of items of a container whose items are being counted."""


class UnfitPickleError(ValueError):
    """A pickle that takes far more to open than it has bytes. The text says why, not in which
    file."""


def raise_if_unfit(file: IO[bytes], size: int) -> None:
    """Read one pickle, up to its end, where the file is left. Nothing is made or looked up.

    size: of the file, in bytes. Raises UnfitPickleError for a pickle that repeats itself, or is
    nested, beyond all use, or whose memo, to whose index C's unpickler allocates, is larger than
    the file; ValueError for what is no pickle, or is cut off.
    """
    outline = _Outline()
    memo: dict[int, int] = {}
    for opcode, argument, _ in pickletools.genops(cast(IO[bytes], _Bounded(file, size))):
        if opcode.name in _PUT or opcode.name == "MEMOIZE":
            index = len(memo) if opcode.name == "MEMOIZE" else int(argument or 0)
            if index > size:
                raise UnfitPickleError(f"it numbers an object {index}, but has {size} bytes")
            memo[index] = outline.last()
        elif opcode.name in _GET:
            index = int(argument or 0)
            if index not in memo:
                raise ValueError(f"it asks for its object {index} before there is one")
            outline.stack.append(memo[index])
        else:
            outline.follow(opcode)
    outline.raise_if_endless()


class _Bounded:
    """A file of which no more is asked for than it has: Python makes room for what is asked for."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.readline, self.tell = file.readline, file.tell

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self._size))


class _Outline:
    """What is in what, in a pickle: its containers, and the objects that are made of some.

    They are numbers, so that however deep they are nested, nothing here is. stack: what the
    unpickler has on its own. plain, parts: of each, how many of its items have none themselves, and
    which are the others.
    """

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.plain: list[int] = []
        self.parts: list[list[int]] = []

    def last(self) -> int:
        if not self.stack or self.stack[-1] == _MARK:
            raise ValueError("it takes more from its stack than there is")
        return self.stack[-1]

    def follow(self, opcode: pickletools.OpcodeInfo) -> None:
        """Do to the stack what an opcode does: take what it takes, put on what it makes of that."""
        before, after = opcode.stack_before, opcode.stack_after
        if opcode.name == "MARK":
            self.stack.append(_MARK)
        elif opcode.name == "DUP":
            self.stack.append(self.last())
        elif not before:
            for made in after:
                self.stack.append(self._made(()) if made in _EMPTY else _PLAIN)
        else:
            is_into = opcode.name in _INTO_TARGET
            is_slice = pickletools.stackslice in before
            taken = self._slice() if is_slice else self._taken(len(before) - is_into)
            if is_into:
                self._put(taken, into=self.last())
            elif after:
                self.stack.append(self._made(taken))

    def _taken(self, count: int) -> list[int]:
        taken = self.stack[-count:]
        if len(taken) < count or _MARK in taken:
            raise ValueError("it takes more from its stack than there is")
        del self.stack[-count:]
        return taken

    def _slice(self) -> list[int]:
        """What stands above the last mark, which goes, too."""
        taken: list[int] = []
        while self.stack:
            item = self.stack.pop()
            if item == _MARK:
                return taken
            taken.append(item)
        raise ValueError("it goes back to a mark that is not there")

    def _made(self, items: Sequence[int]) -> int:
        self.plain.append(0)
        self.parts.append([])
        self._put(items, into=len(self.parts) - 1)
        return len(self.parts) - 1

    def _put(self, items: Sequence[int], *, into: int) -> None:
        if into == _PLAIN:  # it cannot be: the unpickler will say so
            return
        parts = [item for item in items if item != _PLAIN]
        self.parts[into] += parts
        self.plain[into] += len(items) - len(parts)

    def raise_if_endless(self) -> None:
        """Count what is below each container, which are visited from the lowest ones up."""
        items, levels = [0] * len(self.parts), [0] * len(self.parts)  # 0: not counted yet
        for start in range(len(self.parts)):
            path = [] if items[start] else [start]
            while path:
                current = path[-1]
                if items[current] == 0:
                    items[current] = _BEGUN
                    path += self._uncounted_in(current, items)
                    continue
                path.pop()
                if items[current] == _BEGUN:
                    parts = self.parts[current]
                    items[current] = 1 + self.plain[current] + sum(items[part] for part in parts)
                    levels[current] = 1 + max((levels[part] for part in parts), default=0)
                    _raise_if_beyond(items[current], levels[current])

    def _uncounted_in(self, container: int, items: list[int]) -> list[int]:
        parts = self.parts[container]
        if any(items[part] == _BEGUN for part in parts):
            raise UnfitPickleError("an object in it contains itself")
        return [part for part in parts if not items[part]]


def _raise_if_beyond(items: int, levels: int) -> None:
    if items > MOST_ITEMS:
        raise UnfitPickleError(f"its items, each as often as it is named, are over {MOST_ITEMS:,}")
    if levels > MOST_LEVELS:
        raise UnfitPickleError(f"its lists and tuples are nested over {MOST_LEVELS} levels deep")
