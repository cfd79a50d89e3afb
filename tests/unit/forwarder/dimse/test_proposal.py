"""Which presentation contexts are proposed, and what may be learned from the answer."""

from dicomferry.dicom.syntaxes import EXPLICIT_LE, IMPLICIT_LE, resolve
from forwarder.dimse.proposal import ECHO, MAX_CONTEXTS, for_parcels, for_probe, learned

CT, MR, US, PRIVATE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.3", "1.2.826.0.1.9"
ALL = resolve(["all"])


def test_the_parcels_come_first_and_then_everything_the_destination_shows() -> None:
    proposal = for_parcels([(CT, ALL[5]), (CT, ALL[5]), (CT, PRIVATE)], ALL)
    assert proposal.contexts[:2] == ((CT, ALL[5]), (CT, PRIVATE))
    assert set(proposal.contexts) == {(CT, syntax) for syntax in (*ALL, PRIVATE)}
    assert proposal.complete == (CT,)


def test_what_does_not_fit_is_proposed_for_the_parcels_alone_and_not_learned() -> None:
    proposal = for_parcels([(CT, EXPLICIT_LE), (MR, EXPLICIT_LE), (US, EXPLICIT_LE)], ALL)
    assert len(proposal.contexts) <= MAX_CONTEXTS
    assert (US, EXPLICIT_LE) in proposal.contexts
    assert proposal.complete == (CT, MR)
    assert set(learned(proposal, set(proposal.contexts), ALL, {})) == {CT, MR}


def test_a_probe_asks_for_everything_in_as_many_associations_as_it_takes() -> None:
    sop_classes = [f"1.2.{number}" for number in range(7)]
    proposals = for_probe(sop_classes, ALL)
    assert all(len(proposal.contexts) <= MAX_CONTEXTS for proposal in proposals)
    assert proposals[0].contexts[0] == ECHO
    asked = [context for proposal in proposals for context in proposal.contexts if context != ECHO]
    assert sorted(asked) == sorted((uid, syntax) for uid in sop_classes for syntax in ALL)
    assert [uid for proposal in proposals for uid in proposal.complete] == sop_classes


def test_a_probe_without_waiting_objects_is_an_echo() -> None:
    (proposal,) = for_probe([], ALL)
    assert proposal.contexts == (ECHO,)
    assert proposal.complete == ()


def test_the_answer_has_the_destinations_order_and_an_empty_list_where_it_takes_none() -> None:
    proposal = for_parcels([(CT, IMPLICIT_LE), (MR, IMPLICIT_LE)], [EXPLICIT_LE, IMPLICIT_LE])
    accepted = {(CT, IMPLICIT_LE), (CT, EXPLICIT_LE)}
    answer = learned(proposal, accepted, [EXPLICIT_LE, IMPLICIT_LE], {})
    assert answer == {CT: [EXPLICIT_LE, IMPLICIT_LE], MR: []}


def test_what_was_not_asked_this_time_is_not_forgotten_and_what_was_refused_is() -> None:
    proposal = for_parcels([(CT, EXPLICIT_LE)], [EXPLICIT_LE, IMPLICIT_LE])
    known = {CT: [PRIVATE, IMPLICIT_LE], MR: [EXPLICIT_LE]}
    assert learned(proposal, {(CT, EXPLICIT_LE)}, [EXPLICIT_LE, IMPLICIT_LE], known) == {
        CT: [EXPLICIT_LE, PRIVATE]
    }
