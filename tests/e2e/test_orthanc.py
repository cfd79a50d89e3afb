"""Orthanc as the PACS that sends, and another as the workstation."""

import json
from http.client import HTTPConnection

from dicomferry.dicom.syntaxes import EXPLICIT_LE
from tests.support.images.files import fresh_copies, gdcm_pixels, native_pixels, syntax_of, uid_of
from tests.support.peers.scps import orthanc
from tests.support.running.configuration import destination
from tests.support.running.site import Site, progress


def ask(port, path, body=None, method=None):
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method or ("GET" if body is None else "POST"), path, content)
    answer = connection.getresponse()
    assert answer.status == 200, (path, answer.status)
    return answer.read()


def test_a_study_goes_from_orthanc_to_orthanc_and_arrives_uncompressed(tmp_path):
    groups = [fresh_copies(name, 3, tmp_path / name) for name in ("MR2_J2KR.dcm", "US1_J2KR.dcm")]
    files = [path for group in groups for path in group]
    with (
        orthanc(tmp_path / "pacs", "PACS") as (_, pacs),
        orthanc(tmp_path / "ws", "WS1") as (dicom, workstation),
        Site(tmp_path / "site", destination("ws1", dicom)) as site,
    ):
        ferry = {"AET": "FERRY", "Host": "127.0.0.1", "Port": site.port}
        ask(pacs, "/modalities/ferry", ferry, "PUT")
        for group in groups:  # Orthanc 1.12 proposes a job's syntaxes for its first SOP class alone
            ids = [json.loads(ask(pacs, "/instances", path.read_bytes()))["ID"] for path in group]
            ask(pacs, "/modalities/ferry/store", {"Resources": ids, "Synchronous": True})
        progress(lambda: len(json.loads(ask(workstation, "/instances"))), len(files))
        site.wait_drained()
        received = {}
        for number, instance in enumerate(json.loads(ask(workstation, "/instances"))):
            path = tmp_path / f"received-{number}.dcm"
            path.write_bytes(ask(workstation, f"/instances/{instance}/file"))
            received[uid_of(path)] = path
    assert received.keys() == {uid_of(path) for path in files}
    for path in files:
        target = received[uid_of(path)]
        assert syntax_of(target) == EXPLICIT_LE
        assert native_pixels(target) == gdcm_pixels(path, tmp_path)
