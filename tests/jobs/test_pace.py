from longtake.jobs.pace import Pace, span


def test_the_first_piece_only_starts_the_clock():
    pace = Pace()
    assert pace.left_s(4) is None
    pace.add(60.0)  # a minute of start
    assert pace.left_s(4) is None
    pace.add(62.0)
    assert pace.left_s(4) == 8.0


def test_pieces_of_different_work_are_weighed():
    pace = Pace()
    for at_s, work in ((0.0, 1.0), (2.0, 2.0), (5.0, 3.0)):
        pace.add(at_s, work)
    assert pace.per_s == 1.0


def test_only_the_latest_pieces_count():
    pace = Pace()
    for second in range(100):
        pace.add(float(second))
    for second in range(100, 300, 2):
        pace.add(float(second))
    assert pace.per_s == 0.5


def test_spans_are_written_for_people():
    assert [span(seconds) for seconds in (3, 99, 100, 3600, 9000)] == ["3 s", "99 s", "2 min", "60 min", "2 h 30 min"]
