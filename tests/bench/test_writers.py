"""The bench of many small enrollments: both sides enroll, in every round."""

from concurrent.futures import ThreadPoolExecutor

from bench import writers


def test_both_sides_enroll_in_every_round_and_leave_no_files(tmp_path, monkeypatch):
    def start_threads(count, _context, initializer, arguments):
        return ThreadPoolExecutor(count, initializer=initializer, initargs=arguments)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("bench.result.ROUNDS", 1)
    monkeypatch.setattr(writers, "ROUND_SECONDS", 0.2)
    monkeypatch.setattr(writers, "PROCESSES", 2)
    monkeypatch.setattr(writers, "ProcessPoolExecutor", start_threads)
    result = writers.bench_writers()
    assert result.ratio > 0
    for side in ("together", "alone"):
        assert result.details[f"{side}_requests_per_second"] > 0
        assert result.details[f"{side}_p50_ms"] <= result.details[f"{side}_p99_ms"]
    assert not list(tmp_path.iterdir())
