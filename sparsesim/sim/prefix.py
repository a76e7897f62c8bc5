"""The prefix cache of a replica: KV of prompt blocks that stays when its requests are gone, until room is needed.

Blocks are named by ids (hashes of everything up to and including the block), as in the Mooncake traces; each stands
for a fixed number of tokens. An id in use has a reference count; one that nobody uses is idle, and the least recently
used idle one goes first when the pool needs room (vLLM V1's rule: a request's last blocks go before its first). What
goes may find a place in host memory, from which it is fetched back when it is hit; there, too, the oldest goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class PrefixCache:
    """Which ids are held, by how many requests, and in which order they may go.

    Attributes:
        kv_blocks: pool blocks that one id occupies.
        unbounded: nothing is ever evicted, as if an endless tier stood behind the pool.
        host_ids: ids that fit host memory.

    """

    __slots__ = ("host", "host_ids", "idle", "kv_blocks", "unbounded", "users")

    def __init__(self, kv_blocks: int, unbounded: bool, host_ids: int = 0) -> None:
        self.kv_blocks = kv_blocks
        self.host_ids = host_ids
        self.host: OrderedDict[int, None] = OrderedDict()
        self.unbounded = unbounded
        self.users: dict[int, int] = {}
        self.idle: OrderedDict[int, None] = OrderedDict()

    def match(self, ids: Sequence[int]) -> int:
        """How many leading ids are held."""
        users, host = self.users, self.host
        for place, one in enumerate(ids):
            if one not in users and one not in host:
                return place
        return len(ids)

    def idle_among(self, ids: Sequence[int]) -> int:
        """How many of the ids nobody uses: using them again takes their room from what counts as free."""
        idle, host = self.idle, self.host
        found = sum(map(idle.__contains__, ids)) if idle else 0
        return found + sum(map(host.__contains__, ids)) if host else found

    def use(self, ids: Iterable[int]) -> int:
        """One more request uses each of these held ids; how many of them are fetched from host memory."""
        fetched = 0
        for one in ids:
            if one in self.host:
                del self.host[one]
                self.users[one] = 1
                fetched += 1
                continue
            self.users[one] += 1
            self.idle.pop(one, None)
        return fetched

    def add(self, ids: Iterable[int]) -> tuple[int, ...]:
        """Hold the ids that are not yet held, each with one user; those added."""
        added = tuple(one for one in dict.fromkeys(ids) if one not in self.users)
        self.users.update(dict.fromkeys(added, 1))
        if self.host:
            for one in added:  # computed again because an id before it was lost
                self.host.pop(one, None)
        return added

    def release(self, ids: Sequence[int]) -> int:
        """One request fewer uses each of these ids; how many became idle."""
        before = len(self.idle)
        for one in reversed(ids):
            self.users[one] -= 1
            if not self.users[one]:
                self.idle[one] = None
        return len(self.idle) - before

    def shrink(self, free_blocks: int) -> None:
        """Evict idle ids until they fit the blocks that count as free."""
        if self.unbounded or len(self.idle) * self.kv_blocks <= free_blocks:
            return
        room = max(free_blocks, 0) // self.kv_blocks
        while len(self.idle) > room:
            gone, _ = self.idle.popitem(last=False)
            del self.users[gone]
            if self.host_ids:
                self.host[gone] = None
        while len(self.host) > self.host_ids:
            self.host.popitem(last=False)
