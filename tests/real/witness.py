"""Holds what is stored after a campaign against what the server saw, and against the slots that had to come.

For each life of the process (see `campaign.Life`): when it was ready, what it was told to watch, which troubles it had,
and when and how it ended.
"""

from bisect import bisect
from collections import Counter, defaultdict

from harness import MICRO, micros, quantile, shift, slot_before, slots

# What is asked of durability: answered so long before the kill, while the store was well, and it is stored.
SAFE_US = MICRO
# A store that was in trouble is tried again after at most this long.
RETRY_US = 2_500_000
# A reload is in force, and a check that a pause delayed has ended, after this.
SETTLE_US = 1_500_000
# A check that began so long before a pause has ended when the pause comes.
EARLY_US = 300_000
# A server's clock may be cut to milliseconds, so that a request seems to have come a little before its slot.
CLOCK_US = 2_000
STORE_TROUBLES = ("full", "limit", "lock")
OURS = {"skipped.overload", "skipped.overlap", "own.failure"}


def safe_until(life):
    """What was answered before this instant must be stored."""
    if not life.killed:
        return life.ended_us
    safe = life.ended_us - SAFE_US
    for kind, since, until in reversed(life.happened):
        over = (life.ended_us if until is None else until) + (RETRY_US if kind in STORE_TROUBLES else SETTLE_US)
        if kind in (*STORE_TROUBLES, "pause") and over >= min(life.ended_us, safe + SAFE_US):
            safe = min(safe, since - SAFE_US)
    return safe


def paused(life, at_us, margin_us=0):
    """Whether a check of this instant may have been under way, or due, in a pause."""
    return any(
        kind == "pause"
        and since - EARLY_US - margin_us <= at_us <= (life.gone_us if until is None else until) + SETTLE_US + margin_us
        for kind, since, until in life.happened
    )


def regimes(life):
    """What is watched from when to when: (since, until, interval by site), without the time of the changes."""
    ends = [changing for changing, _, _ in life.watched[1:]] + [life.ended_us] * bool(life.watched)
    return [(in_force, end, intervals) for (_, in_force, intervals), end in zip(life.watched, ends, strict=True)]


def interval_at(life, name, at_us):
    """The interval of a site at an instant; nothing where that is not certain."""
    if name.startswith("s"):
        return MICRO
    for since, until, intervals in regimes(life):
        if since + 2 * MICRO <= at_us < until:
            return intervals.get(name)
    return None


def must(life):
    """The slots of each site that must be stored, by the life alone."""
    found = defaultdict(set)
    if life.ready_us is None:
        return found
    safe = safe_until(life)
    for name in regimes(life)[0][2]:
        if name.startswith("s"):
            found[name].update(slots(name, MICRO, life.ready_us, safe))
    for since, until, intervals in regimes(life):
        for name, interval in intervals.items():
            if name.startswith("m"):
                found[name].update(slots(name, interval, since, min(until, safe)))
    return found


def judge_life(life, stored):
    """Faults of what is stored of one life, that need no other witness."""
    wrong = []
    for name, due in must(life).items():
        missing = due - set(stored[name])
        if missing:
            wrong.append(f"{name}: slots without observation {sorted(missing)}")
    return wrong


def judge(lives, requests, stored):
    """All faults, and what there is to tell in numbers."""
    wrong, counts, lags = [], Counter(), []
    seen = defaultdict(Counter)
    starts = [life.started_us for life in lives]
    for request in requests:
        name, at = request.host.split(".")[0], request.start_us + CLOCK_US
        # The life that the slot lies in: a busy server may see a request only when who asked is dead.
        slot = slot_before(name, MICRO, at)
        life = lives[max(0, bisect(starts, slot if name.startswith("s") else at) - 1)]
        interval = interval_at(life, name, at)
        if not life.started_us <= at <= life.gone_us + MICRO:
            wrong.append(f"{name}: a request at {at}, when nothing ran")
        elif interval is None or paused(life, at):
            counts["requests around pauses and reloads"] += 1
        else:
            slot = slot_before(name, interval, at)
            seen[name][slot] += 1
            if slot in stored[name]:
                counts["requests with their observation"] += 1
            elif request.end_us < safe_until(life):
                wrong.append(f"{name}: the answer at {request.end_us} is not stored, and had to be safe")
            else:
                counts["requests right before a kill, not stored"] += 1

    for name, times in seen.items():
        wrong += [f"{name}: slot {slot} was asked for {n} times" for slot, n in times.items() if n > 1]
    for life in lives:
        wrong += judge_life(life, stored)
    for name, lines in stored.items():
        for slot, line in lines.items():
            life = next((life for life in lives if life.started_us <= slot < life.gone_us), None)
            interval = line["interval_us"]
            if life is None or (slot - shift(name, interval)) % interval:
                wrong.append(f"{name}: {slot} is off the grid, or of a time when nothing ran")
                continue
            codes = {cause["code"] for cause in line["causes"]}
            counts[" ".join([line["verdict"], *sorted(codes)])] += 1
            if line["verdict"] == "up":
                # Whatever lag there is, the request cannot have come when nothing is certain.
                certain = all(interval_at(life, name, slot + us) == interval for us in (0, MICRO))
                certain = certain and not paused(life, slot, MICRO) and slot + interval < life.gone_us
                if certain and not seen[name][slot]:
                    wrong.append(f"{name}: slot {slot} is up, and the server saw no request")
                if not paused(life, slot):
                    lags.append((micros(line["started_at"]) - slot) / 1000)
            elif line["verdict"] != "unknown" or not codes <= OURS:
                wrong.append(f"{name}: slot {slot} is {line['verdict']} {line['causes']}")
            elif not paused(life, slot) and "starved" not in f"{life.said} {line['causes']}":
                wrong.append(f"{name}: slot {slot} is {codes}, and nothing was in its way")
    counts["stored"] = sum(len(lines) for lines in stored.values())
    counts["seen by the server"] = len(requests)
    told = {"p50": quantile(lags, 0.5), "p99": quantile(lags, 0.99), "most": max(lags)}
    return wrong, counts, told


def judge_journal(lives, runs):
    """The journal of runs knows each life that was ready: how it ended, and until when it was alive."""
    wrong = []
    for life in lives:
        if life.ready_us is None:
            continue
        found = [run for run in runs if run[0] == life.pid and life.started_us <= run[1] <= life.gone_us]
        if len(found) != 1:
            wrong.append(f"process {life.pid}: {len(found)} entries in the journal of runs")
            continue
        _, _, alive_until, ended = found[0]
        if ended != (None if life.killed else "stopped"):
            wrong.append(f"process {life.pid}, {'killed' if life.killed else 'stopped'}, has ended as {ended!r}")
        if alive_until < safe_until(life) - 6 * MICRO:
            wrong.append(
                f"process {life.pid} was alive for {(life.ended_us - alive_until) / MICRO:.1f} s more than its journal says"
            )
    return wrong
