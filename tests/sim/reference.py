"""A plain simulator of the same rules: one iteration at a time, one object per request, nothing aggregated.

It shares no code with the engine but the step model's interface. Times are accumulated iteration by iteration.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass, field

import numpy as np

TIE_S = 1e-9


@dataclass(eq=False)
class Seq:
    """A request; `computed` of its `known` tokens have KV."""

    row: int
    prompt: int
    output: int
    priority: int
    arrival_s: float
    computed: int = 0
    generated: int = 0
    decodes: bool = False
    preemptions: int = 0
    admitted_s: float = math.nan
    first_s: float = math.nan
    finish_s: float = math.nan
    replica: int = -1
    outcome: str = "unfinished"
    token_s: list = field(default_factory=list)
    held: int = 0
    cached: int = 0
    shared: list = field(default_factory=list)
    verified: int = 0

    @property
    def known(self):
        return self.prompt + self.generated

    @property
    def rank(self):
        return (self.priority, self.arrival_s, self.row)


class Replica:
    """Waiting and running lists, and the clock of the iteration under way."""

    def __init__(self, sim, index, spec, rules):
        self.sim, self.index, self.spec, self.rules = sim, index, spec, rules
        self.waiting, self.running, self.sending, self.batch = [], [], [], None
        self.woken, self.late, self.incoming = False, 0.0, 0
        self.iterations, self.energy_j = 0, np.zeros(len(spec.steps.components))
        self.boundaries = []

    # memory
    def need(self, tokens):
        whole = math.ceil(tokens / self.spec.block_tok)
        total = 0
        for w in self.spec.kv_windows:
            total += whole if math.isinf(w) else min(whole, math.ceil(w / self.spec.block_tok) + 1)
        return total

    def whole(self, seq):
        """Blocks that the request holds at its longest."""
        return self.need(seq.prompt + seq.output - 1)

    @property
    def free(self):
        return self.spec.kv_blocks - sum(s.held for s in self.holders)

    @property
    def holders(self):
        return [*self.running, *self.sending]

    @property
    def outstanding(self):
        return self.incoming + len(self.waiting) + len(self.running)

    def takes(self, seq, tokens):
        """Blocks that the request holds with `tokens` of it in the cache."""
        return self.need(tokens)

    def attended(self, seq):
        """Tokens that a decoding request attends."""
        return seq.computed + 1

    def granted(self, seq, q):
        """A running request takes the blocks of its next tokens."""
        seq.held = self.takes(seq, seq.computed + q)

    def forget(self, seq):
        """What is shared is given back; nothing without a cache."""

    def enter(self, seq, budget, now):
        """Tokens of the first chunk of the first waiting request, 0 where there is no room."""
        q = min(seq.known - seq.computed, budget)
        if self.takes(seq, seq.computed + q) > self.free:
            return 0
        if seq.decodes and seq.preemptions and self.rules.preemption == "swap":
            self.late += self.need(seq.computed) * self.spec.swap_s_per_block
        self.running.append(self.waiting.pop(0))
        self.granted(seq, q)
        return q

    # time
    def costs(self, batch):
        """Time and energies of an iteration."""
        decoders = [s for s, _ in batch if s.decodes]
        chunks = [(q, s.computed + q) for s, q in batch if not s.decodes]
        model, n = self.spec.steps, len(decoders)
        contexts = tuple(sum(min(self.attended(s), w) for s in decoders) / n if n else 0.0 for w in model.windows)
        if chunks:
            done = sum(not s.decodes and s.computed + q == s.known for s, q in batch)
            return np.array(model.mixed(n, contexts, chunks, n + done))
        curve = model.decode(n)
        found = np.array(curve.base)
        for channel, c in zip(curve.channels, contexts, strict=True):
            found += piecewise(channel.knots, channel.values, c)
        return found

    def begin(self, now):
        self.batch = self.schedule(now)
        if self.batch:
            costs = self.costs(self.batch)
            self.energy_j = self.energy_j + costs[1:]
            self.sim.at(now + self.late + float(costs[0]), self)
            self.late = 0.0

    def end(self, now):
        self.iterations += 1
        self.boundaries.append(now)
        for seq, q in self.batch:
            seq.computed += q
            if seq.computed == seq.known:
                seq.generated += 1
                seq.decodes = True
                seq.token_s.append(now)
                if seq.generated == 1:
                    seq.first_s = now
        self.retire(now)
        self.batch = None

    def retire(self, now):
        for seq in [s for s in self.running if s.generated == s.output]:
            self.running.remove(seq)
            self.forget(seq)
            seq.held = 0
            self.sim.finished(seq, now)


class Continuous(Replica):
    """vLLM V1's rules, read one by one."""

    def schedule(self, now):
        rules, batch, preempted = self.rules, [], False
        budget = rules.token_budget
        i = 0
        while i < len(self.running) and budget > 0:
            seq = self.running[i]
            q = min(seq.known - seq.computed, budget)
            while seq in self.running and self.takes(seq, seq.computed + q) - seq.held > self.free:
                preempted = True
                victim = max(self.running, key=lambda s: s.rank) if rules.policy == "priority" else self.running[-1]
                for entry in [e for e in batch if e[0] is victim]:
                    batch.remove(entry)
                    budget += entry[1]
                i -= self.running.index(victim) < i
                self.running.remove(victim)
                self.forget(victim)
                if rules.preemption == "swap" and victim.decodes:
                    self.late += self.need(victim.computed) * self.spec.swap_s_per_block
                else:
                    victim.computed, victim.decodes = 0, False
                victim.held = 0
                victim.preemptions += 1
                self.waiting.insert(0, victim)
                q = min(seq.known - seq.computed, budget)
            if seq not in self.running:
                continue
            self.granted(seq, q)
            batch.append((seq, q))
            budget -= q
            i += 1
        if preempted:
            return batch or self.schedule(now)
        if rules.policy == "priority":
            self.waiting.sort(key=lambda s: s.rank)
        places = min(rules.max_running, math.inf if self.spec.state_slots is None else self.spec.state_slots)
        while self.waiting and budget > 0 and len(self.running) < places:
            seq = self.waiting[0]
            q = self.enter(seq, budget, now)
            if not q:
                break
            batch.append((seq, q))
            budget -= q
            if math.isnan(seq.admitted_s):
                seq.admitted_s = now
        return batch


class Cache:
    """A prefix cache beside a scheduler: ids with their users, and the idle ones in order of last use."""

    def __init__(self, *args):
        super().__init__(*args)
        self.users, self.idle, self.host = {}, [], []
        self.id_tok = self.sim.table.prefix_blocks.block_tok

    def ids(self, seq):
        return self.sim.table.prefix_blocks.of(seq.row).tolist()[: seq.prompt // self.id_tok]

    @property
    def free(self):
        shared = sum(len(s.shared) for s in self.holders)
        private = sum(s.held for s in self.holders) - shared * self.need(self.id_tok)
        return self.spec.kv_blocks - private - (len(self.users) - len(self.idle)) * self.need(self.id_tok)

    def evict(self):
        while self.spec.prefix_cache == "pool" and len(self.idle) * self.need(self.id_tok) > self.free:
            gone = self.idle.pop(0)
            del self.users[gone]
            self.host.append(gone)
        most = self.spec.host_blocks // self.need(self.id_tok)
        self.host = self.host[len(self.host) - most :] if len(self.host) > most else self.host

    def schedule(self, now):
        self.evict()
        return super().schedule(now)

    def hold(self, seq, tokens):
        for one in self.ids(seq)[len(seq.shared) : tokens // self.id_tok]:
            if one not in self.users:
                self.host = [other for other in self.host if other != one]
                self.users[one] = 1
                seq.shared.append(one)

    def forget(self, seq):
        for one in reversed(seq.shared):
            self.users[one] -= 1
            if not self.users[one]:
                self.idle.append(one)
        seq.shared = []

    def granted(self, seq, q):
        super().granted(seq, q)
        if not seq.decodes:
            self.hold(seq, seq.computed + q)
        self.evict()

    def enter(self, seq, budget, now):
        if seq.decodes:
            return super().enter(seq, budget, now)
        hits = list(itertools.takewhile(lambda one: one in self.users or one in self.host, self.ids(seq)))
        hits = hits[: (seq.known - 1) // self.id_tok]
        cached = len(hits) * self.id_tok
        q = min(seq.known - cached, budget)
        busy = sum(one not in self.idle and one not in self.host for one in hits)
        if self.takes(seq, cached + q) - busy * self.need(self.id_tok) > self.free:
            return 0
        for one in hits:
            if one in self.host:
                self.host.remove(one)
                self.users[one] = 0
                self.late += self.need(self.id_tok) * self.spec.swap_s_per_block
            self.users[one] += 1
            if one in self.idle:
                self.idle.remove(one)
        seq.shared, seq.computed = hits, cached
        if math.isnan(seq.admitted_s):
            seq.cached = cached
        self.running.append(self.waiting.pop(0))
        self.granted(seq, q)
        return q


class Sglang(Replica):
    """Prompts first; whoever has generated least is retracted."""

    def ranked(self):
        if self.rules.policy == "lpm" and 1 < len(self.waiting) <= 128:
            self.waiting.sort(key=lambda s: -self.prefix(s))

    def prefix(self, seq):
        return 0

    def fits(self, seq):
        groups = sum(math.isinf(w) for w in self.spec.kv_windows)
        if not self.running or not groups:
            return True
        committed = 0.0
        for other in self.running:
            held = other.computed if other.decodes else other.known
            committed += held + self.rules.new_token_ratio * (other.output - other.generated)
        own = seq.prompt + seq.output - 1
        return committed + own <= self.spec.kv_blocks // groups * self.spec.block_tok

    def prompts(self, now):
        batch, budget = [], self.rules.token_budget
        for seq in [s for s in self.running if not s.decodes]:
            q = min(seq.known - seq.computed, budget)
            if self.need(seq.computed + q) - seq.held > self.free:
                return []
            self.granted(seq, q)
            batch.append((seq, q))
            budget -= q
        self.ranked()
        places = min(self.rules.max_running, math.inf if self.spec.state_slots is None else self.spec.state_slots)
        while self.waiting and budget > 0 and len(self.running) < places:
            if any(s.computed + q < s.known for s, q in batch):
                break
            seq = self.waiting[0]
            q = self.enter(seq, budget, now) if self.fits(seq) else 0
            if not q:
                break
            batch.append((seq, q))
            budget -= q
            if math.isnan(seq.admitted_s):
                seq.admitted_s = now
        return batch

    def schedule(self, now):
        if batch := self.prompts(now):
            return batch
        decoders = [s for s in self.running if s.decodes]
        while len(self.running) > 1 and sum(self.need(s.computed + 1) - s.held for s in decoders) > self.free:
            victim = min(decoders, key=lambda s: (s.generated, -s.prompt, -s.row))
            decoders.remove(victim)
            self.running.remove(victim)
            self.forget(victim)
            victim.held, victim.computed, victim.decodes = 0, 0, False
            victim.preemptions += 1
            self.waiting.append(victim)
        if not decoders and self.running:
            return self.schedule(now)
        for seq in decoders:
            self.granted(seq, 1)
        return [(s, 1) for s in decoders]


class Speculative(Continuous):
    """Verify steps drawn beforehand; between them the context grows evenly; blocks for everything at once."""

    def __init__(self, *args):
        super().__init__(*args)
        self.verify = self.rules.speculation.verify_steps(self.sim.table.output_tok, 0)

    def takes(self, seq, tokens):
        return self.whole(seq)

    def whole(self, seq):
        return self.need(seq.prompt + seq.output - 1 + self.rules.speculation.draft_tok)

    def attended(self, seq):
        return seq.prompt + 1 + seq.verified * (seq.output - 1) / self.verify[seq.row]

    def end(self, now):
        self.iterations += 1
        self.boundaries.append(now)
        for seq, q in self.batch:
            if seq.decodes:
                seq.verified += 1
                seq.generated = seq.output if seq.verified == self.verify[seq.row] else 1
                continue
            seq.computed += q
            if seq.computed == seq.known:
                seq.generated, seq.decodes, seq.first_s = 1, True, now
        self.retire(now)
        self.batch = None


class CachedContinuous(Cache, Continuous):
    pass


class CachedSpeculative(Cache, Speculative):
    pass


class CachedSglang(Cache, Sglang):
    def prefix(self, seq):
        hits = list(itertools.takewhile(lambda one: one in self.users or one in self.host, self.ids(seq)))
        return min(len(hits), (seq.known - 1) // self.id_tok)


class Static(Replica):
    """A batch at a time; done sequences are computed on until the longest is done."""

    def schedule(self, now):
        if self.running:
            return [(s, 1) for s in self.running]
        places = min(self.rules.batch, math.inf if self.spec.state_slots is None else self.spec.state_slots)
        while self.waiting and len(self.running) < places:
            trial = [*self.running, self.waiting[0]]
            longest = max(s.output for s in trial)
            if sum(self.need(s.prompt + longest - 1) for s in trial) > self.spec.kv_blocks:
                break
            self.running.append(self.waiting.pop(0))
            self.running[-1].admitted_s = now
        return [(s, s.prompt) for s in self.running]

    def retire(self, now):
        for seq in self.running:
            if seq.generated == seq.output:
                self.sim.finished(seq, now)
        if all(s.generated >= s.output for s in self.running):
            self.running = []

    @property
    def outstanding(self):
        return len(self.waiting) + sum(s.generated < s.output for s in self.running)


def piecewise(knots, values, c):
    """Linear between knots and beyond the outer ones."""
    if len(knots) == 1:
        return values[0]
    i = int(np.clip(np.searchsorted(knots, c) - 1, 0, len(knots) - 2))
    return values[i] + (values[i + 1] - values[i]) * (c - knots[i]) / (knots[i + 1] - knots[i])


KINDS = {"continuous": Continuous, "static": Static, "sglang": Sglang, "speculative": Speculative}
CACHED = {"continuous": CachedContinuous, "static": Static, "sglang": CachedSglang, "speculative": CachedSpeculative}


def kind_of(spec, scheduler):
    """The class of a replica that serves or decodes."""
    name = "speculative" if getattr(scheduler, "speculation", None) else scheduler.kind
    return (KINDS if spec.prefix_cache == "off" else CACHED)[name]


class Reference:
    """All replicas behind a router, one event per iteration."""

    def __init__(self, table, specs, router, scheduler):
        self.table, self.router = table, router
        kind = kind_of(specs[0], scheduler)
        self.replicas = [kind(self, i, spec, scheduler) for i, spec in enumerate(specs)]
        self.events, self.ids, self.turn, self.now = [], itertools.count(), -1, 0.0
        rows = zip(table.prompt_tok.tolist(), table.output_tok.tolist(), table.priority.tolist(), strict=True)
        self.seqs = [Seq(i, p, o, rank, math.nan) for i, (p, o, rank) in enumerate(rows)]
        self.issued = 0

    def at(self, time, target):
        """A boundary is due a tie after its time, so that arrivals that tie with it come first."""
        late = TIE_S if isinstance(target, Replica) else 0.0
        heapq.heappush(self.events, (max(time + late, self.now), next(self.ids), time, target))

    def run(self):
        if self.table.concurrency is None:
            for row in np.flatnonzero(self.table.follows < 0).tolist():
                self.at(float(self.table.arrival_s[row]), row)
        else:
            self.issued = min(self.table.concurrency, len(self.seqs))
            for row in range(self.issued):
                self.at(0.0, row)
        while self.events:
            self.now, _, now, target = heapq.heappop(self.events)
            if isinstance(target, Replica):
                if target.batch:
                    target.end(now)
                target.begin(now)
                target.woken = bool(target.batch)
            elif callable(target):
                target(now)
            else:
                self.arrive(self.seqs[target], now)
        return self

    def arrive(self, seq, now):
        seq.arrival_s = now
        spec = self.replicas[0].spec
        if seq.prompt + seq.output > spec.max_context:
            return self.over(seq, "rejected_too_long", now)
        if self.too_large(seq):
            return self.over(seq, "rejected_too_large", now)
        self.turn += 1
        replica = self.replicas[self.turn % len(self.replicas)]
        if self.router.kind == "least_outstanding":
            replica = min(self.replicas, key=lambda r: r.outstanding)
        self.give(replica, seq, now)
        return None

    def too_large(self, seq):
        replica = self.replicas[0]
        return replica.whole(seq) > replica.spec.kv_blocks or replica.spec.state_slots == 0

    def give(self, replica, seq, now):
        seq.replica = replica.index
        replica.waiting.append(seq)
        self.poke(replica, now)

    def poke(self, replica, now):
        if not replica.woken:
            replica.woken = True
            self.at(now, replica)

    def finished(self, seq, now):
        seq.finish_s = now
        self.over(seq, "finished", now)

    def over(self, seq, outcome, now):
        seq.outcome = outcome
        for row in np.flatnonzero(self.table.follows == seq.row).tolist():
            self.at(now + float(self.table.think_s[row]), row)
        if self.table.concurrency is not None and self.issued < len(self.seqs):
            self.issued += 1
            self.at(now + float(self.table.think_s[self.issued - 1]), self.issued - 1)


class Prefilling:
    """Beside a scheduler: requests leave with their first token and keep their blocks until they have arrived."""

    def retire(self, now):
        super().retire(now)
        for seq in [s for s in self.running if s.decodes]:
            self.running.remove(seq)
            self.sending.append(seq)
            self.sim.hand_on(self, seq, now)

    def sent(self, seq, now):
        self.sending.remove(seq)
        self.forget(seq)
        seq.held = 0
        if self.waiting:
            self.sim.poke(self, now)


class PrefillContinuous(Prefilling, Continuous):
    pass


class PrefillCached(Prefilling, CachedContinuous):
    pass


class Disaggregated(Reference):
    """Two pools, and KV on its way between them."""

    def __init__(self, table, prefill, decode, transfer):
        super().__init__(table, prefill.replicas, prefill.router, prefill.scheduler)
        self.transfer, self.decode_router, self.decode_turn = transfer, decode.router, -1
        kind = PrefillContinuous if prefill.replicas[0].prefix_cache == "off" else PrefillCached
        self.replicas = [kind(self, i, spec, prefill.scheduler) for i, spec in enumerate(prefill.replicas)]
        first = len(self.replicas)
        kind = kind_of(decode.replicas[0], decode.scheduler)
        self.targets = [kind(self, first + i, spec, decode.scheduler) for i, spec in enumerate(decode.replicas)]

    def too_large(self, seq):
        source, target = self.replicas[0], self.targets[0]
        no_room = source.need(seq.prompt) > source.spec.kv_blocks or target.whole(seq) > target.spec.kv_blocks
        return no_room or source.spec.state_slots == 0

    def hand_on(self, source, seq, now):
        self.decode_turn += 1
        target = self.targets[self.decode_turn % len(self.targets)]
        if self.decode_router.kind == "least_outstanding":
            target = min(self.targets, key=lambda r: r.outstanding)

        def arrived(at):
            source.sent(seq, at)
            target.incoming -= 1
            self.give(target, seq, at)

        target.incoming += 1
        self.at(now + self.transfer.time_s(seq.prompt + seq.generated - 1), arrived)
