"""When notices become deliveries."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from watchdog.core.grouping import GroupingState, acknowledge, next_due, receive, tick
from watchdog.core.model import Alert, AlertState, labels_of
from watchdog.core.routing import Delivery, Notice, NoticeKind, Route, RouteMatch, notice_key, receivers_for

OPENED, PAGE, ENDED, HEALED = NoticeKind.OPENED, NoticeKind.ESCALATED, NoticeKind.RESOLVED, NoticeKind.HEALED
ROUTE = Route("ops", group_by=("service",), group_wait=30.0, group_interval=300.0, repeat_interval=14_400.0)


def notice(incident: int, kind: NoticeKind, severity: str = "warning", nth: int = 1, service: str = "web") -> Notice:
    labels = labels_of(alertname="Down", severity=severity, service=service)
    return Notice(incident, kind, notice_key(incident, kind, nth), labels, (), started_at=0.0)


class World:
    """Feeds one state and remembers what left and when."""

    def __init__(self, route: Route = ROUTE) -> None:
        self.route = route
        self.state = GroupingState()
        self.left: list[tuple[float, Delivery]] = []
        self.muted: set[int] = set()

    def tell(self, at: float, message: Notice, matches: tuple[RouteMatch, ...] | None = None) -> list[str]:
        matches = receivers_for(self.route, message.labels) if matches is None else matches
        self.state, deliveries = receive(self.state, message, matches, at, self.is_muted)
        return self._note(at, deliveries)

    def tick(self, at: float) -> list[str]:
        self.state, deliveries = tick(self.state, at, self.is_muted)
        return self._note(at, deliveries)

    def is_muted(self, message: Notice) -> bool:
        return message.incident_id in self.muted

    def _note(self, at: float, deliveries: tuple[Delivery, ...]) -> list[str]:
        self.left.extend((at, delivery) for delivery in deliveries)
        return [" ".join(n.key for n in delivery.notices[: delivery.fresh]) for delivery in deliveries]


def test_first_news_waits_group_wait_and_leaves_as_one_delivery() -> None:
    """Two incidents of one group that open together are told together, once, after group_wait."""
    world = World()
    assert world.tell(0, notice(1, OPENED)) == []
    assert world.tell(10, notice(2, OPENED)) == []
    assert next_due(world.state) == 30
    assert world.tick(29.9) == []
    assert world.tick(30) == ["1:opened:1 2:opened:1"]
    assert world.tick(31) == []


def test_groups_are_told_apart_by_their_labels() -> None:
    """Incidents of two services leave as two deliveries."""
    world = World()
    world.tell(0, notice(1, OPENED))
    world.tell(0, notice(2, OPENED, service="db"))
    assert world.tick(30) == ["1:opened:1", "2:opened:1"]
    assert {delivery.group_labels for _, delivery in world.left} == {(("service", "web"),), (("service", "db"),)}


def test_what_ends_within_group_wait_is_never_told() -> None:
    """Opened and resolved before group_wait has passed sends nothing, and leaves nothing behind."""
    world = World()
    world.tell(0, notice(1, OPENED))
    assert world.tell(20, notice(1, ENDED)) == []
    assert next_due(world.state) is None
    assert world.tick(1000) == []
    assert world.state.groups == ()


def test_an_untold_end_keeps_the_wait_of_its_neighbours() -> None:
    """That one incident ends untold delays no other of its group."""
    world = World()
    world.tell(0, notice(1, OPENED))
    world.tell(10, notice(2, OPENED))
    world.tell(20, notice(1, ENDED))
    assert world.tick(30) == ["2:opened:1"]


def test_a_critical_escalation_leaves_at_once() -> None:
    """A page waits for nothing, and takes along what was waiting."""
    world = World()
    world.tell(0, notice(1, OPENED))
    assert world.tell(5, notice(2, PAGE, "critical")) == ["2:escalated:1 1:opened:1"]


def test_a_route_can_make_pages_wait() -> None:
    """x_escalation_wait takes the place of group_wait for pages."""
    world = World(replace(ROUTE, escalation_wait=7.0))
    assert world.tell(0, notice(1, PAGE, "critical")) == []
    assert world.tick(7) == ["1:escalated:1"]


def test_other_escalations_wait_like_all_news() -> None:
    """An escalation that is not critical is no page: it waits group_wait."""
    world = World()
    assert world.tell(0, notice(1, PAGE)) == []
    assert world.tick(30) == ["1:escalated:1"]


def test_news_never_delays_a_page_but_pages_delay_pages() -> None:
    """A page leaves at once after other news, and group_interval after an earlier page of its group."""
    world = World()
    world.tell(0, notice(1, OPENED))
    world.tick(30)
    assert world.tell(40, notice(1, PAGE, "critical")) == ["1:escalated:1"]
    assert world.tell(50, notice(2, PAGE, "critical")) == []
    assert world.tick(339) == []
    assert world.tick(340) == ["2:escalated:1"]


def test_later_news_waits_group_interval() -> None:
    """After a delivery the group's next one is at least group_interval later, and at once if that has passed."""
    world = World()
    world.tell(0, notice(1, OPENED))
    world.tick(30)
    assert world.tell(60, notice(2, OPENED)) == []
    assert world.tick(330) == ["2:opened:1"]
    assert world.left[-1][1].notices[1].key == "1:opened:1"
    assert world.tell(1000, notice(3, OPENED)) == ["3:opened:1"]


def test_the_interval_holds_after_the_group_is_empty() -> None:
    """A group that empties is remembered for group_interval, so that flapping incidents are not told one by one."""
    world = World()
    world.tell(0, notice(1, OPENED))
    world.tick(30)
    world.tell(330, notice(1, ENDED))
    assert world.tell(340, notice(2, OPENED)) == []
    assert next_due(world.state) == 630
    world.tell(350, notice(2, ENDED))
    world.tick(631)
    assert world.state.groups == ()


def test_the_end_is_told_to_those_who_heard_of_it() -> None:
    """Resolved leaves after the page was told, and the incident is then forgotten."""
    world = World()
    world.tell(0, notice(1, PAGE, "critical"))
    assert world.tell(400, notice(1, ENDED, "critical")) == ["1:resolved:1"]
    assert world.left[-1][1].status == "resolved"
    assert next_due(world.state) is None
    assert world.tell(500, notice(1, ENDED, "critical", nth=2)) == []


def test_an_end_names_the_alerts_that_it_ends() -> None:
    """An end without alerts takes those of the news before it, an end with alerts keeps its own."""
    alert = Alert("Down", labels_of(alertname="Down"), (), AlertState.FIRING, 1.0, 0.0)
    gone = replace(alert, state=AlertState.RESOLVED)
    world = World()
    for service, own, expected in (("web", (), (alert,)), ("db", (gone,), (gone,))):
        world.tell(0, replace(notice(1, PAGE, "critical", service=service), alerts=(alert,)))
        world.tell(400, replace(notice(1, ENDED, "critical", service=service), alerts=own))
        assert world.left[-1][1].notices[0].alerts == expected


def test_healed_is_told_once_and_only_where_it_is_wanted() -> None:
    """A repair is one message to the matches that want it, none to others, and RESOLVED to who was told before."""
    world = World()
    world.tell(0, notice(1, HEALED))
    assert world.tick(30) == ["1:healed:1"]
    assert world.tell(400, notice(2, HEALED), matches=()) == []
    assert next_due(world.state) is None
    world.tell(400, notice(3, OPENED))
    world.tick(430)
    assert world.left[-1][1].notices[0].kind is OPENED
    world.tell(800, notice(3, HEALED), matches=())
    assert world.left[-1][1].notices[0].kind is ENDED


def test_healed_takes_the_place_of_what_was_not_told() -> None:
    """An incident that heals within its wait is told as healed, never as opened, and dropped where that is unwanted."""
    world = World()
    world.tell(0, notice(1, OPENED))
    world.tell(10, notice(1, HEALED))
    assert world.tick(30) == ["1:healed:1"]
    world.tell(400, notice(2, OPENED, service="db"))
    world.tell(410, notice(2, HEALED, service="db"), matches=())
    assert world.tick(430) == []


def test_unresolved_is_repeated_until_acknowledged() -> None:
    """What was told and is not over is told again each repeat_interval; an acknowledgement ends that until news."""
    world = World()
    world.tell(0, notice(1, PAGE, "critical"))
    world.tick(14_400)
    at, repeated = world.left[-1]
    assert (at, repeated.repeat, repeated.fresh, repeated.notices[0].key) == (14_400, True, 0, "1:escalated:1")
    world.state = acknowledge(world.state, 1)
    assert next_due(world.state) is None
    assert world.tell(20_000, notice(1, PAGE, "critical", nth=2)) == ["1:escalated:2"]
    assert next_due(world.state) == 34_400


def test_every_delivery_has_a_key_of_its_own() -> None:
    """Repeats of one notice differ in key, so that a receiver does not take them for retries."""
    world = World()
    world.tell(0, notice(1, PAGE, "critical"))
    world.tick(14_400)
    world.tick(28_800)
    assert len({delivery.key for _, delivery in world.left}) == 3
    assert len(tick(world.state, 43_200)[1]) == 1


def test_the_same_notice_twice_is_one() -> None:
    """A notice that is made again after a crash changes nothing."""
    world = World()
    world.tell(0, notice(1, PAGE, "critical"))
    before = world.state
    assert world.tell(1, notice(1, PAGE, "critical")) == []
    assert world.state == before


def test_what_is_muted_stays_news() -> None:
    """A held-back notice is looked at again each group_interval and told when nothing mutes it any more."""
    world = World()
    world.muted = {1}
    world.tell(0, notice(1, OPENED))
    assert world.tick(30) == []
    assert next_due(world.state) == 330
    world.muted = set()
    assert world.tick(330) == ["1:opened:1"]


def test_muting_one_holds_back_no_other_and_no_end() -> None:
    """Neighbours of a muted incident are told and repeated, and the end of a told one is told though it is muted."""
    world = World()
    world.muted = {1}
    world.tell(0, notice(1, OPENED))
    world.tell(0, notice(2, OPENED))
    assert world.tick(30) == ["2:opened:1"]
    for at in range(330, 14_431, 300):
        world.tick(at)
    assert [delivery.repeat for _, delivery in world.left] == [False, True]
    world.muted = {1, 2}
    assert world.tell(20_000, notice(2, ENDED)) == ["2:resolved:1"]


def test_a_muted_repeat_does_not_spin() -> None:
    """When everything that is due for repetition is muted, the next look is in the future."""
    world = World()
    world.tell(0, notice(1, PAGE, "critical"))
    world.muted = {1}
    assert world.tick(14_400) == []
    assert next_due(world.state) == 14_700


def test_an_incident_that_changes_groups_is_told_once() -> None:
    """When its labels change, the receiver hears of it in the new group only, and its end once."""
    world = World(replace(ROUTE, group_by=("severity",)))
    world.tell(0, notice(1, OPENED))
    world.tell(1, notice(2, OPENED))
    world.tick(30)
    assert world.tell(40, notice(1, PAGE, "critical")) == ["1:escalated:1"]
    world.tell(400, notice(1, ENDED, "critical"))
    assert [n.key for _, d in world.left for n in d.notices[: d.fresh]] == [
        "1:opened:1",
        "2:opened:1",
        "1:escalated:1",
        "1:resolved:1",
    ]


def test_another_receiver_hears_the_end_of_what_moved_away() -> None:
    """A receiver whose route matches no longer is not repeated to, but hears of the end."""
    chief = Route("chief", matchers=(), group_by=("severity",))
    world = World()
    world.tell(0, notice(1, OPENED))
    world.tick(30)
    assert world.tell(400, notice(1, PAGE, "critical"), receivers_for(chief, notice(1, PAGE, "critical").labels)) == [
        "1:escalated:1"
    ]
    assert world.tick(14_430 + 30) == []
    world.tell(14_500, notice(1, ENDED, "critical"))
    assert sorted(d.receiver for at, d in world.left if at == 14_500) == ["chief", "ops"]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["tell", "tick", "restart"]),
        st.integers(1, 3),
        st.sampled_from([OPENED, PAGE, ENDED, HEALED]),
        st.sampled_from(["warning", "critical"]),
        st.floats(0, 2000),
    ),
    max_size=30,
)
CODEC = TypeAdapter(GroupingState)


@settings(max_examples=100, deadline=None)
@given(EVENTS)
def test_laws(events: list[tuple[str, int, NoticeKind, str, float]]) -> None:
    """Whatever happens: a key is told as news at most once per receiver, an end only after its incident, no spin."""
    world, now = World(), 0.0
    for nth, (action, incident, kind, severity, pause) in enumerate(events):
        now += pause
        match action:
            case "tell":
                world.tell(now, notice(incident, kind, severity, nth))
            case "tick":
                world.tick(now)
            case _:
                world.state = CODEC.validate_json(CODEC.dump_json(world.state))
        due = next_due(world.state)
        assert due is None or due > now or action == "restart"
        assert all(group.members or group.sent_at is not None for group in world.state.groups)
    told: list[tuple[int, NoticeKind]] = []
    keys: list[str] = []
    for _, delivery in world.left:
        for message in delivery.notices[: delivery.fresh]:
            if message.kind is ENDED:
                before = [kind for other, kind in told if other == message.incident_id]
                assert before
                assert before[-1] in (OPENED, PAGE)
            told.append((message.incident_id, message.kind))
            keys.append(message.key)
    assert len(keys) == len(set(keys))
    assert len({delivery.key for _, delivery in world.left}) == len(world.left)
