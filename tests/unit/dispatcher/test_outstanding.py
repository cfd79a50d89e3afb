import pytest

from dicomferry.messages.batches import Batch, DeliverBatch, TranscodeBatch
from dicomferry.spool.instance import RenditionSpec
from dispatcher.outstanding import Outstanding


def rendition(batch: str, *instances: str) -> TranscodeBatch:
    return TranscodeBatch(batch, "boot", RenditionSpec("1.2.840.10008.1.2.1"), instances)


@pytest.mark.parametrize(
    ("batches", "is_one"),
    [
        ([], False),
        ([rendition("a", "1")], True),
        ([rendition("a", "1", "2")], False),
        ([rendition("a", "1"), rendition("b", "2")], False),
        ([rendition("a", "1"), DeliverBatch("b", "boot", "ws", ())], False),
        ([DeliverBatch("b", "boot", "ws", ())], False),
    ],
)
def test_one_rendition_is_one_object_and_nothing_else(batches: list[Batch], is_one: bool) -> None:
    outstanding = Outstanding()
    for batch in batches:
        outstanding.add(batch, ())
    assert outstanding.is_one_rendition is is_one
