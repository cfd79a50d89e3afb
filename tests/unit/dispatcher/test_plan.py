"""What an instance is sent as: the planner's table."""

import pytest

from dicomferry.dicom.syntaxes import BY_UID, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, TABLE, resolve
from dicomferry.settings import Destination
from dicomferry.spool.instance import RenditionSpec
from dispatcher.plan import Choice, NoChoice, choose

UID = {syntax.label: syntax.uid for syntax in TABLE}


def plan(received, shows, accepts, *, ruled_out=None, lossy=False, colour="rgb", sendable=True, sop=""):
    destination = Destination(
        name="ws",
        title="WS1",
        host="127.0.0.1",
        port=104,
        transfer_syntaxes=shows,
        lossy=lossy,
        colour=colour,
    )
    return choose(
        UID[received],
        destination,
        destination.shown_syntaxes,
        frozenset(UID[label] for label in accepts),
        {UID[label]: reason for label, reason in (ruled_out or {}).items()},
        sop_class_uid=sop,
        sendable=sendable,
    )


@pytest.mark.parametrize(
    ("received", "shows", "accepts", "sent"),
    [
        # the received bytes, whenever they are shown and accepted
        ("J2K", ["all"], ["J2K", "ExplicitLE"], "J2K"),
        ("J2K", "negotiate", ["J2K", "ExplicitLE"], "J2K"),
        ("JPEG", "negotiate", ["JPEG", "ImplicitLE"], "JPEG"),
        (
            "ImplicitLE",
            ["ExplicitVRLittleEndian", "uncompressed"],
            ["ImplicitLE", "ExplicitLE"],
            "ImplicitLE",
        ),
        # a liberal SCP in front of a viewer that shows only uncompressed images
        ("J2K", ["uncompressed"], ["J2K", "ExplicitLE", "ImplicitLE"], "ExplicitLE"),
        ("J2K", ["uncompressed"], ["J2K", "ImplicitLE"], "ImplicitLE"),
        # the destination's order of preference
        (
            "J2K",
            ["ImplicitVRLittleEndian", "ExplicitVRLittleEndian"],
            ["ExplicitLE", "ImplicitLE"],
            "ImplicitLE",
        ),
        # big endian is read, and never made while a little endian syntax is there
        ("ExplicitBE", ["uncompressed"], ["ExplicitLE", "ImplicitLE"], "ExplicitLE"),
        ("Deflated", "negotiate", ["ExplicitLE"], "ExplicitLE"),
        ("JPEG", "negotiate", ["ImplicitLE"], "ImplicitLE"),
        # a JPEG and its JPEG XL form are each other bit for bit: nothing is lost, nothing is smaller
        ("JPEG", "negotiate", ["JPEGXLRecompressed", "HTJ2K", "ExplicitLE"], "JPEGXLRecompressed"),
        ("JPEGXLRecompressed", "negotiate", ["JPEG", "HTJ2K", "ExplicitLE"], "JPEG"),
        ("JPEG", ["jpeg-xl", "uncompressed"], ["JPEGXLRecompressed", "ExplicitLE"], "JPEGXLRecompressed"),
        ("JPEGXLRecompressed", ["jpeg", "uncompressed"], ["JPEG", "ExplicitLE"], "JPEG"),
        ("JPEG", ["ExplicitVRLittleEndian", "jpeg-xl"], ["JPEGXLRecompressed", "ExplicitLE"], "ExplicitLE"),
        # of what is no JPEG Baseline there is no such form, and other JPEG XL has none to give back
        ("JPEG12", ["jpeg-xl", "uncompressed"], ["JPEGXLRecompressed", "ExplicitLE"], "ExplicitLE"),
        ("JPEGXL", "negotiate", ["JPEG", "JPEGXLRecompressed", "ExplicitLE"], "ExplicitLE"),
        ("JPEGXLLossy", ["jpeg", "uncompressed"], ["JPEG", "ExplicitLE"], "ExplicitLE"),
        # video passes through
        ("MPEG2MPML", "negotiate", ["MPEG2MPML", "ExplicitLE"], "MPEG2MPML"),
    ],
)
def test_the_choice_follows_the_design_s_order(received, shows, accepts, sent):
    choice = plan(received, shows, accepts)
    assert isinstance(choice, Choice)
    assert BY_UID[choice.transfer_syntax_uid].label == sent
    assert (choice.spec is None) == (received == sent)


@pytest.mark.parametrize(
    ("received", "shows", "accepts", "words"),
    [
        ("J2K", ["uncompressed"], [], "no transfer syntax"),
        ("J2K", ["uncompressed"], ["J2K"], "WS1 takes nothing else"),
        ("MPEG2MPML", ["uncompressed"], ["ExplicitLE"], "passes through unchanged or not at all"),
        ("JPIP", "negotiate", ["ExplicitLE"], "passes through unchanged or not at all"),
        ("J2K", ["MPEG2MPML"], ["MPEG2MPML"], "cannot be made of J2K"),
        ("J2K", ["JPEGBaseline8Bit"], ["JPEG"], "lossy = true would allow it"),
        ("J2K", ["JPEGXLJPEGRecompression"], ["JPEGXLRecompressed"], "cannot be made of J2K"),
    ],
)
def test_what_cannot_be_sent_is_stuck_and_says_why(received, shows, accepts, words):
    no_choice = plan(received, shows, accepts)
    assert isinstance(no_choice, NoChoice)
    assert words in no_choice.reason


@pytest.mark.parametrize(
    ("received", "shows", "accepts", "parts"),
    [
        (
            "J2K",
            ["uncompressed", "rle"],
            [],
            ["CT Image Storage", "(uncompressed, rle)", "transfer_syntaxes"],
        ),
        ("J2K", ["uncompressed"], ["J2K"], ["CT Image Storage", "(uncompressed)", "transfer_syntaxes"]),
        ("J2K", "negotiate", [], ["CT Image Storage", "route such objects elsewhere"]),
        ("J2K", ["mpeg"], ["MPEG2MPML"], ["CT Image Storage", "MPEG2MPML", "J2K", "transfer_syntaxes"]),
        ("J2K", ["JPEGBaseline8Bit"], ["JPEG"], ["CT Image Storage", "JPEG", "J2K", "lossy = true"]),
        ("JPIP", ["uncompressed"], ["ExplicitLE"], ["does not show JPIP", "transfer_syntaxes"]),
    ],
)
def test_why_nothing_can_be_sent_names_the_class_the_syntaxes_and_the_key(received, shows, accepts, parts):
    reason = plan(received, shows, accepts, sop="1.2.840.10008.5.1.4.1.1.2").reason
    assert [part for part in parts if part not in reason] == [], reason


def test_the_first_of_the_list_is_called_so_until_it_was_tried():
    accepts = ["ExplicitLE", "ImplicitLE"]
    assert "ExplicitLE: first it accepts of its list" in plan("J2K", ["uncompressed"], accepts).why
    refused = plan("J2K", ["uncompressed"], accepts, ruled_out={"ExplicitLE": "0xA900"})
    assert "ImplicitLE: next it accepts of its list" in refused.why
    assert "first" not in refused.why
    # The received syntax is of the list, too.
    received = plan("J2K", ["JPEG2000Lossless", "uncompressed"], accepts, ruled_out={"J2K": "0xA900"})
    assert "next it accepts of its list" in received.why


def test_no_loss_makes_recompression_possible_and_none_is_advised():
    for lossy in (False, True):
        no_choice = plan("J2K", ["JPEGXLJPEGRecompression"], ["JPEGXLRecompressed"], lossy=lossy)
        assert isinstance(no_choice, NoChoice)
        assert "lossy" not in no_choice.reason


@pytest.mark.parametrize("lossy", [False, True])
def test_recompression_has_no_quality_though_encoding_pixels_would(lossy):
    choice = plan("JPEG", ["JPEGXLJPEGRecompression"], ["JPEGXLRecompressed"], lossy=lossy)
    assert choice.spec == RenditionSpec(UID["JPEGXLRecompressed"], "as-encoded")
    back = plan("JPEGXLRecompressed", ["JPEGBaseline8Bit"], ["JPEG"], lossy=lossy)
    assert back.spec == RenditionSpec(UID["JPEG"], "as-encoded")
    encoded = plan("JPEGXL", ["JPEGBaseline8Bit"], ["JPEG"], lossy=True)
    assert encoded.spec.quality


def test_a_syntax_that_was_ruled_out_gives_way_to_the_next():
    choice = plan("J2K", ["uncompressed"], ["ExplicitLE", "ImplicitLE"], ruled_out={"ExplicitLE": "0xA900"})
    assert isinstance(choice, Choice)
    assert choice.transfer_syntax_uid == IMPLICIT_LE


def test_when_everything_is_ruled_out_the_reasons_are_told():
    no_choice = plan(
        "J2K",
        ["uncompressed"],
        ["ExplicitLE", "ImplicitLE"],
        ruled_out={"ExplicitLE": "no", "ImplicitLE": "never"},
    )
    assert isinstance(no_choice, NoChoice)
    assert "ExplicitLE: no" in no_choice.reason
    assert "ImplicitLE: never" in no_choice.reason


def test_the_reason_names_what_the_destination_does_not_show():
    assert "WS1 does not show J2K" in plan("J2K", ["uncompressed"], ["J2K", "ExplicitLE"]).why


def test_the_reason_names_what_the_peer_does_not_accept():
    assert "WS1 does not accept J2K" in plan("J2K", "negotiate", ["ExplicitLE"]).why


def test_the_colour_of_the_destination_is_part_of_the_rendition():
    specs = [plan("JPEG", ["uncompressed"], ["ExplicitLE"], colour=c).spec for c in ("rgb", "as-encoded")]
    assert specs[0].key != specs[1].key


def test_uncompressed_means_little_endian_first():
    assert resolve(["uncompressed"]) == (EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE)


@pytest.mark.parametrize(
    ("received", "shows", "accepts", "sent"),
    [
        ("Deflated", ["all"], ["Deflated", "ExplicitLE"], "Deflated"),
        ("JPEG", ["all"], ["JPEG", "ExplicitLE"], "JPEG"),  # the same codestreams: no loss to allow
        ("JPEG", ["uncompressed"], ["JPEG", "ExplicitLE"], "ExplicitLE"),
    ],
)
def test_bytes_that_are_not_fit_to_be_sent_become_a_rendition(received, shows, accepts, sent):
    choice = plan(received, shows, accepts, sendable=False)
    assert isinstance(choice, Choice)
    assert choice.transfer_syntax_uid == UID[sent]
    assert choice.spec is not None
    assert choice.spec.transfer_syntax_uid == UID[sent]


def test_bytes_that_are_not_fit_to_be_sent_and_cannot_be_read_are_stuck():
    choice = plan("MPEG2MPML", ["all"], ["MPEG2MPML", "ExplicitLE"], sendable=False)
    assert isinstance(choice, NoChoice)
    assert "not fit to be sent" in choice.reason
