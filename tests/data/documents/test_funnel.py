"""The funnel."""

from ilm_ray.data.documents.funnel import Funnel


def test_funnels_of_parts_merge_to_the_funnel_of_the_whole() -> None:
    rows = [(None if i % 5 else "min_chars", "en" if i % 3 else "zh", f"d{i % 2}", i) for i in range(60)]
    whole, merged = Funnel(), Funnel()
    for row in rows:
        whole.add("format", *row)
    for part in (rows[:13], rows[13:]):
        funnel = Funnel()
        for row in part:
            funnel.add("format", *row)
        merged.merge(funnel.rows())
    assert merged.rows() == whole.rows()
    assert whole.documents("format") == 60 and whole.documents("format", kept=False) == 12
    assert sum(r["bytes"] for r in whole.rows()) == sum(range(60))
