from hypothesis import given
from hypothesis import strategies as st

from servery.engine.block_tables import BlockTables

STEPS = st.lists(st.tuples(st.sampled_from(["grow", "replace", "end", "enter"]), st.integers(0, 5)), max_size=60)


def shown(tables: BlockTables, rows: list[list[int]]) -> list[list[int]]:
    """What the array has of each row."""
    array = tables.arranged(rows)
    return [array[at, : len(row)].tolist() for at, row in enumerate(rows)]


@given(STEPS)
def test_whatever_becomes_of_rows_their_blocks_are_shown(steps):
    tables, rows, fresh = BlockTables(), [[0, 1, 2]], iter(range(3, 9999))
    for kind, number in steps:
        at = number % len(rows)
        if kind == "grow":
            rows[at] += [next(fresh) for _ in range(number)]
        elif kind == "replace":
            rows[at] = [next(fresh) for _ in range(len(rows[at]))]
        elif kind == "end" and len(rows) > 1:
            del rows[at]
        elif kind == "enter":
            rows.append([next(fresh)])
        assert shown(tables, rows) == rows


def test_what_has_not_changed_is_not_written_again():
    tables, rows = BlockTables(), [[3, 4], [5]]
    tables.arranged(rows)[0, 0] = 77
    rows[1].append(6)
    assert tables.arranged(rows).tolist() == [[77, 4], [5, 6]]
