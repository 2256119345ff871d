"""Reading what valgrind counted, and telling it."""

from benchmarks.instructions import counted, table

DUMP = """\
version: 1
events: Ir
fl=(1) a.cpp
ob=(1) /x/servery/engine/native/_native.so
fn=(1) linear
16 400
+3 20
cob=(2) /x/lib/libtorch_cpu.so
cfn=(2) mm
calls=1 50
-2 9000
* 3
ob=(2)
fn=(2)
50 9000
ob=(3) /x/bin/python3.11
fn=(3) eval
0 70
ob=(4) /lib/libc.so.6
fn=(4) memcpy
1 5
summary: 9498
""".splitlines()


def test_instructions_count_where_they_are_executed():
    assert counted(DUMP) == {"kernels": 423, "host": 9075}


def test_the_table_compares_with_what_was_counted_before():
    loads = {"one": {"kernels": 1500.0, "host": 2500.0}, "two": counted(DUMP)}
    shown = table(loads, {"one": {"kernels": 2000.0}})
    assert [next(iter(column.cells)) for column in shown.columns] == ["one", "2", "2", "4", "2.000"]
    assert list(shown.columns[-1].cells)[1] == "-"
