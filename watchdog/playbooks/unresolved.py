"""The incidents that are not over, in memory: found by number, by target and by alert without a search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

from watchdog.core.incidents import Incident
from watchdog.core.model import IncidentState

_revisions = count(1)


class Unresolved:
    """Iterates oldest first."""

    def __init__(self, incidents: Iterable[Incident] = ()) -> None:
        self._by_id: dict[int, Incident] = {}
        self._by_key: dict[str, int] = {}
        self._by_alert: dict[str, int] = {}
        self.revision = 0
        """Another number whenever one comes, goes, or begins or ceases to have firing alerts; never the same for two
        contents that differ in that."""
        for incident in incidents:
            self.put(incident)

    def __iter__(self) -> Iterator[Incident]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def __getitem__(self, identifier: int) -> Incident:
        return self._by_id[identifier]

    def __contains__(self, identifier: int) -> bool:
        return identifier in self._by_id

    def get(self, identifier: int) -> Incident | None:
        """The incident with this number."""
        return self._by_id.get(identifier)

    def on(self, key: str) -> Incident | None:
        """The incident of this target."""
        identifier = self._by_key.get(key)
        return None if identifier is None else self._by_id[identifier]

    def with_alert(self, fingerprint: str) -> Incident | None:
        """The incident of which this alert fires."""
        identifier = self._by_alert.get(fingerprint)
        return None if identifier is None else self._by_id[identifier]

    def put(self, incident: Incident) -> None:
        """Takes it in as it is now; one that is resolved leaves."""
        known = self._by_id.get(incident.id)
        stays = known is not None and incident.state is not IncidentState.RESOLVED
        if not stays or known is None or bool(known.firing) != bool(incident.firing):
            self.revision = next(_revisions)
        for fingerprint in known.firing if known is not None else ():
            self._by_alert.pop(fingerprint, None)
        if incident.state is IncidentState.RESOLVED:
            self._by_id.pop(incident.id, None)
            if self._by_key.get(incident.key) == incident.id:
                del self._by_key[incident.key]
            return
        self._by_id[incident.id] = incident
        self._by_key[incident.key] = incident.id
        self._by_alert.update(dict.fromkeys(incident.firing, incident.id))

    def copy(self) -> Unresolved:
        """As it is now, whatever becomes of this one."""
        other = Unresolved()
        other._by_id, other._by_key = dict(self._by_id), dict(self._by_key)
        other._by_alert, other.revision = dict(self._by_alert), self.revision
        return other
