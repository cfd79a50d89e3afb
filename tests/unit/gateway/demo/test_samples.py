"""The demo's images: what they claim is true, and a wrong pixel does not pass."""

import numpy as np
import pytest

from dicomferry.dicom.syntaxes import BY_UID
from gateway.demo.samples import Sample, frames_of, make


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return make()


def test_they_cover_every_family_of_compressed_images(samples: list[Sample]) -> None:
    groups = {BY_UID[sample.syntax].group for sample in samples}
    assert groups >= {"jpeg2000", "htj2k", "jpeg", "jpeg-lossless", "jpeg-ls", "rle", "deflated"}


def test_each_is_an_instance_of_its_own_of_a_patient_who_does_not_exist(samples: list[Sample]) -> None:
    assert len({sample.uid for sample in samples}) == len(samples)
    assert {sample.uid for sample in samples}.isdisjoint(sample.uid for sample in make())
    for sample in samples:
        assert sample.dataset.file_meta.MediaStorageSOPInstanceUID == sample.uid
        assert str(sample.dataset.PatientName) == "Sample^Demo"


def test_what_is_encoded_or_has_an_original_decodes_to_it_exactly(samples: list[Sample]) -> None:
    for sample in samples:
        if sample.tolerance == 0:
            np.testing.assert_array_equal(frames_of(sample.dataset), sample.frames, err_msg=sample.name)


def test_one_pixel_beyond_the_tolerance_is_a_difference(samples: list[Sample]) -> None:
    sample = next(sample for sample in samples if sample.tolerance == 1)
    frames = sample.frames.astype(np.int32)
    for by, words in ((1, ""), (2, "differs by up to 2"), (-2, "differs by up to 2")):
        expected = frames.copy()
        expected.flat[5] += by
        assert Sample(sample.name, sample.dataset, expected, 1).difference(sample.dataset) == words


def test_another_shape_is_a_difference(samples: list[Sample]) -> None:
    sample = samples[0]
    turned = Sample(sample.name, sample.dataset, sample.frames[:, 1:], 0)
    assert turned.difference(sample.dataset).startswith("shape ")
