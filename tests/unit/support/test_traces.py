"""How the tests read what strace wrote: who misreads it calls a wrong order right, or a right one wrong."""

from tests.support.running.traces import calls_in

# As strace 6.1 writes two threads' calls that come between each other's beginning and end.
TRACE = """\
70 openat(AT_FDCWD, "/spool/received.dcm", O_RDONLY) = 5</spool/received.dcm>
71 recvfrom(4<TCP:[127.0.0.1:1->127.0.0.1:2]>,  <unfinished ...>
70 fsync(6</spool/a> <unfinished ...>
71 <... recvfrom resumed>"\\4\\0\\0", 6, 0, NULL, NULL) = 6
71 sendto(3<TCP:[127.0.0.1:1->127.0.0.1:3]>, "Delivered", 9, 0, NULL, 0 <unfinished ...>
70 <... fsync resumed>)             = 0
71 <... sendto resumed>)            = 9
72 read(7,  <unfinished ...>
"""
OPEN = (70, 'openat(AT_FDCWD, "/spool/received.dcm", O_RDONLY) = 5</spool/received.dcm>')
ANSWER = (71, 'recvfrom(4<TCP:[127.0.0.1:1->127.0.0.1:2]>, "\\4\\0\\0", 6, 0, NULL, NULL) = 6')
SYNC = (70, "fsync(6</spool/a>)             = 0")
SEND = '"Delivered", 9, 0, NULL, 0'
TO = "sendto(3<TCP:[127.0.0.1:1->127.0.0.1:3]>, "


def test_a_call_that_another_interrupted_is_whole_and_stands_where_it_ended() -> None:
    assert list(calls_in(TRACE)) == [OPEN, ANSWER, SYNC, (71, f"{TO}{SEND})            = 9")]


def test_what_is_sent_stands_where_it_began() -> None:
    assert list(calls_in(TRACE, when_begun={"sendto"})) == [OPEN, ANSWER, (71, f"{TO}{SEND}"), SYNC]
