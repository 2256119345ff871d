import os
import time
from pathlib import Path

from servery.engine.vitals import Vitals, read_vitals

STAT = "{pid} (a) name (x) {state} 1 2 3 4 5 6 7 8 {faults} 10 {user} {system} 13 14 20 0 1 0 99"


def test_the_system_s_own_line_is_read_whatever_the_name_of_the_process(tmp_path: Path) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "stat").write_text(STAT.format(pid=42, state="D", faults=17, user=150, system=50))
    assert read_vitals(42, tmp_path) == Vitals(200 / os.sysconf("SC_CLK_TCK"), 17, waits_for_disk=True)


def test_a_process_that_is_gone_has_none(tmp_path: Path) -> None:
    assert read_vitals(42, tmp_path) is None


def test_our_own_processor_time_is_what_python_says() -> None:
    vitals, cpu_s = read_vitals(os.getpid()), time.process_time()
    assert vitals is not None
    assert abs(vitals.cpu_s - cpu_s) < 1.0
    assert not vitals.waits_for_disk
