"""The window of requests in flight: each rule by hand, and all of them on simulated engines and a simulated API."""

from dataclasses import replace

import pytest

from benchmarks.controller import SCENARIOS
from benchmarks.simulated_engines import Engine, EngineModel, Sequence, Work
from orchestrator.concurrency.window import COOL_DOWN, CUT, EngineReport, EngineWindow, Load, RateWindow
from orchestrator.steering.engine_loads import Reading

QUEUE = 25  # of 100 seats


def load(
    running: int = 100, waiting: int = 0, kv: float = 0.1, preemptions: int = 0, before: float | None = None
) -> Load:
    return Load(running, waiting, kv, preemptions, before)


def engines(number: int = 2, seats: int = 100) -> EngineWindow:
    return EngineWindow(engines=number, seats=seats, most=1000)


def saturated() -> EngineWindow:
    """Two engines, 250 in flight: 100 run and 25 wait at each."""
    window = engines()
    window.observe(0, [load(50)] * 2)
    window.observe(5, [load(100)] * 2)
    window.observe(10, [load(waiting=3 * QUEUE)] * 2)
    assert (window.size, window.slow_start) == (250, False)
    return window


def test_it_doubles_while_it_binds_and_nothing_is_full() -> None:
    window = engines()
    assert window.size == 2 * (100 + QUEUE)  # all seats, and a short queue
    window.observe(0, [load(100)] * 2)
    assert window.size == 500
    window.observe(10, [load(100)] * 2)  # 200 of 500 are in flight: there is nothing more to send
    assert window.size == 500
    for look in range(2, 9):
        window.observe(10 * look, [load(window.size // 2)] * 2)
    assert window.size == 1000


def test_a_long_queue_shortens_it_to_what_runs_and_a_short_one() -> None:
    window = saturated()
    window.observe(20, [load(waiting=QUEUE)] * 2)
    assert window.size == 250
    window.observe(30, [load(110, waiting=1)] * 2)  # a queue that is nearly empty, where more run than before
    assert window.size == 275


def test_a_queue_beside_free_seats_is_no_reason_for_less() -> None:
    window = engines()
    window.observe(0, [load(30, waiting=70)] * 2)  # their prompts are still to be computed
    assert window.size == 2 * (100 + QUEUE)


def test_kv_that_is_rising_stops_the_growth_before_it_is_full() -> None:
    window = engines()
    window.observe(0, [load(50, kv=0.1)] * 2)
    window.observe(10, [load(100, kv=0.26, before=0.1)] * 2)  # 0.26 + 50 s x 0.016/s = 1.06 is coming
    assert (window.size, window.slow_start) == (int(200 * 0.9 / 1.06), False)


def test_an_idle_engine_that_gets_work_shows_no_trend() -> None:
    window = engines()
    window.observe(0, [load(0, kv=0.0)] * 2)
    window.observe(10, [load(100, waiting=QUEUE, kv=0.4)] * 2)  # at 0.04/s it would be full in 15 s
    assert window.size == 2 * (100 + QUEUE)
    # One of them was late. 0.4 + 50 s x 0.005/s is what the other one shows: room for a third more.
    window.observe(20, [load(100, kv=0.45, before=0.4), load(100, kv=0.4)])
    assert window.size == int(250 * 0.9 / (0.425 + 50 * 0.005))


def test_an_engine_that_is_still_filling_shows_no_trend() -> None:
    now = Reading(100, 0, 0.4)
    assert Load.since(Reading(70, 0, 0.2), now).kv_before is None
    assert Load.since(Reading(90, 0, 0.3), now).kv_before == 0.3


def rising(before: EngineReport | None, kv_usage: float, tokens: int) -> tuple[EngineReport, Load]:
    """100 requests with prompts of 200 tokens run, 10 have ended."""
    now = Reading(100, QUEUE, kv_usage, prompts=22_000, tokens=tokens, finished=10)
    return now, Load.since(before, now)


@pytest.mark.parametrize(("budget", "size", "full"), [(300, 250, 181), (800, 180, 180), (None, 120, 52)])
def test_a_cache_that_holds_all_budgets_does_not_overflow_however_fast_it_fills(
    budget: int | None, size: int, full: int
) -> None:
    window = EngineWindow(engines=2, seats=100, most=1000, budget=budget)
    first, load = rising(None, 0.3, 5_000)
    window.observe(0, [load] * 2)
    second, load = rising(first, 0.5, 25_000)  # 20,000 tokens are a fifth of the cache
    window.observe(10, [load] * 2)  # at 0.02/s 1.5 would come in 50 s
    assert window.size == size
    _, load = rising(second, 0.99, 74_000)
    window.observe(20, [load] * 2)
    assert window.size == full  # 0.99 of the cache is in use: room for no more than 200 x 0.9 / 0.99


def filled_to_the_brim(budget: int | None) -> tuple[EngineWindow, Load]:
    """Twice 100 requests use 0.93 of a cache of 100,000 tokens, and with budgets of 730 never more."""
    window = EngineWindow(engines=2, seats=100, most=1000, budget=budget)
    first, _ = rising(None, 0.73, 53_000)
    _, load = rising(first, 0.93, 73_000)
    window.observe(10, [load] * 2)
    return window, replace(load, kv_before=0.93)


@pytest.mark.parametrize(("budget", "size"), [(730, 250), (800, 193), (None, 193)])
def test_a_cache_that_just_holds_all_budgets_is_used_to_the_brim(budget: int | None, size: int) -> None:
    window, load = filled_to_the_brim(budget)
    window.observe(20, [load] * 2)
    assert window.size == size


def test_a_preemption_says_that_a_cache_holds_less_than_was_thought() -> None:
    window, load = filled_to_the_brim(730)
    window.observe(20, [replace(load, preemptions=1)] * 2)
    assert window.size == int(200 * CUT)
    window.observe(20 + COOL_DOWN, [replace(load, running=90, kv_usage=0.91)] * 2)
    assert window.size == int(180 * 0.9 / 0.91)


@pytest.mark.parametrize(("kv_usage", "room"), [(0.93, 0.95 / 0.93), (0.6, 0.9 / 0.6)])
def test_a_window_grows_until_all_budgets_fit_and_further_where_answers_end_early(kv_usage: float, room: float) -> None:
    window, load = filled_to_the_brim(730)
    window.observe(20, [replace(load, waiting=0, kv_usage=kv_usage)] * 2)
    assert window.size == int(250 * room)


def test_kv_above_the_target_shrinks_in_proportion() -> None:
    window = engines()
    window.observe(0, [load(kv=0.8)] * 2)
    assert window.size == int(250 * 0.9 / 0.8)  # it may grow by no more
    window.observe(10, [load(kv=0.84, before=0.8)] * 2)  # 0.84 + 50 s x 0.004/s = 1.04 is coming
    assert window.size == int(200 * 0.9 / 1.04)
    window.observe(20, [load(85, kv=0.94, before=0.84)] * 2)  # and now 0.94 + 50 s x 0.01/s
    assert window.size == int(170 * 0.9 / 1.44)
    window.observe(30, [load(60, kv=0.94, before=0.94)] * 2)  # it rises no more, and 120 x 0.9 / 0.94 is more
    assert window.size == int(170 * 0.9 / 1.44)
    window.observe(40, [load(54, kv=0.7, before=0.94)] * 2)
    assert window.size == int(170 * 0.9 / 1.44 * 1.1)


def test_preemptions_cut_by_the_share_of_the_engines_and_not_twice_at_once() -> None:
    window = saturated()
    window.observe(20, [load(100, QUEUE, preemptions=5), load(100, QUEUE)])
    assert window.size == int(200 * (1 - (1 - CUT) / 2))  # of what ran: who waits holds no cache
    window.observe(20 + COOL_DOWN - 1, [load(100, QUEUE, preemptions=5)] * 2)
    assert window.size == int(200 * (1 - (1 - CUT) / 2))
    window.observe(20 + COOL_DOWN, [load(90, 0, preemptions=5)] * 2)
    assert window.size == int(180 * CUT)


def test_an_engine_takes_its_share_away_and_brings_it_back() -> None:
    window = EngineWindow(engines=16, seats=100, most=5000)
    window.resize(15)
    assert window.size == 15 * 125
    window.observe(0, [load(100)] * 15)
    assert window.size == 2 * 15 * 125
    window.resize(16)
    assert window.size == 2 * 16 * 125
    window.observe(10, [load(155)] * 15)  # the sixteenth has not reported yet: 2480 in flight, not 2325
    assert window.size == 5000
    window.resize(0)
    assert window.size == 5000  # nobody to send it to, but it is what the next one gets


def test_never_below_one_request_an_engine_nor_above_the_most() -> None:
    window = engines(number=4, seats=1)
    window.observe(0, [load(0, kv=1.0, preemptions=1)] * 4)
    assert window.size == 4
    assert EngineWindow(engines=2, seats=100, most=60).size == 60


def test_a_rate_limit_is_found_and_kept() -> None:
    window = RateWindow(start=4, least=1, most=100)
    for _ in range(4):
        window.answered(0, in_flight=window.size)
    assert window.size == 8  # a window's worth of answers doubles it
    window.refused(1, in_flight=7)
    assert window.size == 6  # 0.9 x 7
    window.answered(1 + COOL_DOWN - 0.1, in_flight=6)
    assert window.size == 6  # an answer to what was sent before the cut
    for _ in range(7):
        window.answered(1 + COOL_DOWN, in_flight=window.size)
    assert window.size == 7  # one more for a window's worth of answers
    for _ in range(100):
        window.answered(20, in_flight=3)
    assert window.size == 7  # nothing says that 7 would be answered


def test_refusals_at_a_limit_that_has_fallen_bring_it_down_at_once() -> None:
    window = RateWindow(start=50, least=1, most=100)
    window.refused(0, in_flight=50)
    assert window.size == 45
    for in_flight in range(44, 19, -1):
        window.refused(1, in_flight)
    assert window.size == 20
    window.refused(2, in_flight=0)  # when there was little to ask
    assert window.size == 10


def test_a_simulated_engine_takes_its_time_and_preempts_the_last_one() -> None:
    model = EngineModel(2, kv_tokens=20, weights=1, a_sequence=0.1, a_kv_token=0.01, a_prefill_token=0.001)
    engine = Engine(model)
    for item in (0, 1):
        engine.put(Sequence(item, prompt=8, output=4))
    ended = engine.advance(100)
    # Two steps of both fill the cache: 18, 20. The first ends alone: 11, 12. The second is prefilled again, with the
    # two tokens that it had, and ends alone: 11, 12.
    assert [(sequence.item, sequence.done) for sequence in ended] == [(0, 4), (1, 4)]
    assert (engine.steps, engine.preemptions, engine.preempted_steps) == (6, 1, 1)
    seconds = 6 * 1 + 8 * 0.1 + 84 * 0.01 + (8 + 8 + 10) * 0.001
    early, late = Engine(model), Engine(model)
    for engine, until in ((early, seconds - 0.01), (late, seconds + 0.01)):
        for item in (0, 1):
            engine.put(Sequence(item, prompt=8, output=4))
        assert len(engine.advance(until)) == (1 if engine is early else 2)
    # At best: 8 tokens at two a step are 4 steps, but 2 x (9 + 10 + 11 + 12) tokens of KV in a cache of 20 are 4.2.
    assert Work.of(ended).least_seconds(model) == pytest.approx(4.2 * 1 + 8 * 0.1 + 84 * 0.01 + 16 * 0.001)


@pytest.mark.parametrize("scenario", ["kv_binds", "seats_bind"])
def test_simulated_engines_are_kept_full_without_thrashing(scenario: str) -> None:
    result = SCENARIOS[scenario](0)
    assert result["throughput"] >= 0.97
    assert result["steps_with_preemption"] < 0.01
    assert (result["lost"], result["answered_twice"]) == (0, 0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scenario", ["bench", "bench_long"])
def test_answers_that_end_together_do_not_make_the_window_smaller(scenario: str, seed: int) -> None:
    assert SCENARIOS[scenario](seed)["throughput"] >= 0.99  # as a window that is fixed at all seats


@pytest.mark.parametrize("scenario", ["api", "api_retry_after"])
def test_a_simulated_rate_limit_is_used_and_seldom_hit(scenario: str) -> None:
    result = SCENARIOS[scenario](0)
    assert result["throughput"] > 0.9
    assert result["refused"] < 0.01
    assert result["given_up"] == 0
